//! Objects that programs allocate, and who owns them.
//!
//! ```text
//!            bpf_obj_new                bpf_kptr_xchg
//!   nothing ────────────► run ◄───────────────────────► kptr of a map or object
//!                        ▲   │
//!      pop, remove       │   │ push, add
//!                        │   ▼
//!                     list or tree
//! ```
//!
//! Each owner counts one; `bpf_refcount_acquire` makes a run own an object once more. Without an
//! owner an object is emptied at once: what it owned is dropped in turn. Its memory stays until the
//! outermost run has ended, as it stays until the end of a grace period in a kernel.
//!
//! All of this lies on the host's side, by address. The bytes of nodes, roots and counts are opaque
//! to programs and unused here, so that one that scribbles over them harms nobody: a pointer that
//! it forges drops an owner too many, and then names nothing. Mirrors `__bpf_obj_drop_impl()` and
//! `bpf_obj_free_fields()` of `kernel/bpf/{helpers,syscall}.c`.

mod lists;
mod rbtree;
mod types;

use std::collections::{BTreeMap, VecDeque};

use harena_abi::KernAddr;
use harena_bpf::{SpecialField, SpecialKind};

use crate::held::Object;
use crate::host::{Call, Host};
use crate::layout::{PERCPU_STRIDE, Region};
use crate::maps::Map;
use crate::mem::GuestMem;
use crate::program::ProgId;
use crate::vm::Vm;

pub(crate) use lists::{End, Lists};
pub(crate) use rbtree::{Side, Trees};
pub(crate) use types::{BtfId, LocalType, Types};

/// Objects that the host keeps books on: small ones would fill its memory before they fill the
/// guest's.
const OBJECTS_MAX: usize = 1 << 22;

/// What an object costs that is allocated or dropped, in instructions.
pub(crate) const INSNS_PER_OBJECT: u64 = 16;

/// Where an object lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Home {
    /// At one place.
    Kernel,
    /// Once per CPU.
    PerCpu,
}

/// An object with an owner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owned {
    pub(crate) ty: LocalType,
    pub(crate) home: Home,
    pub(crate) size: u64,
    owners: u32,
}

/// The special fields of one object or map value.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    pub(crate) start: KernAddr,
    pub(crate) btf: BtfId,
    pub(crate) list: &'a [SpecialField],
}

impl Fields<'_> {
    /// The field of such a kind that starts at an address.
    pub(crate) fn at(
        &self,
        addr: KernAddr,
        is_it: impl Fn(SpecialKind) -> bool,
    ) -> Option<&SpecialField> {
        let offset = addr.offset_from(self.start)?;
        let mut there = self.list.iter().filter(|f| u64::from(f.offset) == offset);
        there.find(|field| is_it(field.kind))
    }
}

/// Memory that nobody owns any more.
#[derive(Clone, Copy, Debug)]
struct Dying {
    size: u64,
    home: Home,
}

/// All objects of a VM, with the lists and trees they are in.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    owned: BTreeMap<KernAddr, Owned>,
    dying: BTreeMap<KernAddr, Dying>,
    pub(crate) lists: Lists,
    pub(crate) trees: Trees,
}

/// All objects are aligned to this, as the kernel's allocator aligns them.
const ALIGN: u64 = 8;

impl Objects {
    /// The object that starts here.
    pub(crate) fn get(&self, at: KernAddr) -> Option<&Owned> {
        self.owned.get(&at)
    }

    /// The object that holds this address, and where it starts.
    pub(crate) fn around(&self, addr: KernAddr) -> Option<(KernAddr, &Owned)> {
        let (start, owned) = self.owned.range(..=addr).next_back()?;
        let offset = addr.offset_from(*start)?;
        (offset < owned.size).then_some((*start, owned))
    }

    /// Whether what starts here lost its last owner in the outermost run.
    pub(crate) fn is_dying(&self, at: KernAddr) -> bool {
        self.dying.contains_key(&at)
    }

    /// Adds an owner; false if there are too many.
    pub(crate) fn own_again(&mut self, at: KernAddr) -> bool {
        let Some(owned) = self.owned.get_mut(&at) else {
            return false;
        };
        let more = owned.owners.checked_add(1);
        owned.owners = more.unwrap_or(owned.owners);
        more.is_some()
    }

    /// Takes one owner away; gives the object if that was the last.
    fn disown(&mut self, at: KernAddr) -> Option<Owned> {
        let owned = self.owned.get_mut(&at)?;
        owned.owners -= 1;
        if owned.owners > 0 {
            return None;
        }
        let owned = self.owned.remove(&at)?;
        let Owned { size, home, .. } = owned;
        self.dying.insert(at, Dying { size, home });
        Some(owned)
    }

    /// Gives back the memory of objects without owners.
    pub(crate) fn free_dying(&mut self, mem: &GuestMem, nr_cpus: u32) {
        for (at, Dying { size, home }) in std::mem::take(&mut self.dying) {
            match home {
                Home::Kernel => mem.free(Region::Kernel, at, size, ALIGN),
                Home::PerCpu => {
                    for cpu in 1..u64::from(nr_cpus) {
                        let copy = at.checked_add(cpu * PERCPU_STRIDE);
                        let cleared = copy.map(|copy| mem.zero(copy, size));
                        assert_eq!(cleared, Some(Ok(())), "all copies are backed");
                    }
                    mem.free(Region::PerCpu, at, size, ALIGN);
                }
            }
        }
    }

    fn take_memory(mem: &GuestMem, size: u64, home: Home) -> Option<KernAddr> {
        match home {
            Home::Kernel => mem.alloc(Region::Kernel, size, ALIGN).ok(),
            Home::PerCpu => {
                let end = Region::PerCpu.start().checked_add(PERCPU_STRIDE)?;
                mem.alloc_below(end, Region::PerCpu, size, ALIGN).ok()
            }
        }
    }
}

impl Vm {
    /// Objects of programs' own types that have an owner.
    #[must_use]
    pub fn objects_owned(&self) -> usize {
        self.objects.owned.len()
    }

    /// A new, cleared object with one owner; `None` without memory.
    pub(crate) fn new_object(&mut self, ty: LocalType, size: u64, home: Home) -> Option<KernAddr> {
        let objects = &mut self.objects;
        let is_full = |objects: &Objects| objects.owned.len() + objects.dying.len() >= OBJECTS_MAX;
        if is_full(objects) {
            objects.free_dying(&self.mem, self.config.nr_cpus);
        }
        if is_full(objects) {
            return None;
        }
        let at = Objects::take_memory(&self.mem, size, home).or_else(|| {
            objects.free_dying(&self.mem, self.config.nr_cpus);
            Objects::take_memory(&self.mem, size, home)
        })?;
        let owned = Owned {
            ty,
            home,
            size,
            owners: 1,
        };
        let old = objects.owned.insert(at, owned);
        assert!(old.is_none(), "an object lies at {at} already");
        Some(at)
    }

    /// Takes one owner of an object away.
    pub(crate) fn drop_object(&mut self, at: KernAddr, host: &mut dyn Host) {
        self.drop_all(VecDeque::from([at]), host);
    }

    /// A queue instead of recursion: objects may own each other to any depth. Counts the work as
    /// instructions; what has begun is brought to its end.
    fn drop_all(&mut self, mut gone: VecDeque<KernAddr>, host: &mut dyn Host) {
        while let Some(at) = gone.pop_front() {
            self.insns_left = self.insns_left.saturating_sub(INSNS_PER_OBJECT);
            let Some(owned) = self.objects.disown(at) else {
                continue;
            };
            // It was read when the object was allocated.
            if let Ok(record) = self.types.record(owned.ty) {
                self.empty(&record.fields, at, &mut gone, host);
            }
        }
    }

    /// Drops what the special fields of a value own.
    pub(crate) fn free_fields(
        &mut self,
        fields: &[SpecialField],
        at: KernAddr,
        host: &mut dyn Host,
    ) {
        let mut gone = VecDeque::new();
        self.empty(fields, at, &mut gone, host);
        self.drop_all(gone, host);
    }

    /// Clears special fields; of what they owned, objects go to `gone`.
    fn empty(
        &mut self,
        fields: &[SpecialField],
        at: KernAddr,
        gone: &mut VecDeque<KernAddr>,
        host: &mut dyn Host,
    ) {
        for field in fields {
            let Some(place) = at.checked_add(field.offset.into()) else {
                continue;
            };
            match field.kind {
                SpecialKind::ListHead => {
                    let nodes = self.objects.lists.take_all(place);
                    gone.extend(nodes.into_iter().map(|node| self.start_of(node)));
                }
                SpecialKind::RbRoot => {
                    let nodes = self.objects.trees.take_all(place);
                    gone.extend(nodes.into_iter().map(|node| self.start_of(node)));
                }
                // Who is in a list has an owner, unless one too many was dropped.
                SpecialKind::ListNode => self.objects.lists.forget(place),
                SpecialKind::RbNode => self.objects.trees.forget(place),
                SpecialKind::KptrRef | SpecialKind::KptrPercpu => {
                    self.empty_kptr(place, gone, host);
                }
                SpecialKind::KptrUntrusted | SpecialKind::Uptr => {
                    self.take_pointer(place);
                }
                SpecialKind::Timer | SpecialKind::Wq | SpecialKind::TaskWork => {
                    self.cancel_timers(place, field.size.into(), host);
                }
                SpecialKind::SpinLock | SpecialKind::ResSpinLock | SpecialKind::Refcount => {}
            }
        }
    }

    /// Where the object starts that a node lies in.
    fn start_of(&self, node: KernAddr) -> KernAddr {
        let around = self.objects.around(node);
        around.map_or(node, |(start, _)| start)
    }

    fn empty_kptr(&mut self, place: KernAddr, gone: &mut VecDeque<KernAddr>, host: &mut dyn Host) {
        let pointer = self.take_pointer(place);
        if pointer.raw() == 0 {
            return;
        }
        if self.objects.get(pointer).is_some() {
            gone.push_back(pointer);
            return;
        }
        let prog = self.runs.last().map_or(ProgId(0), |run| run.prog);
        let mut call = Call {
            vm: self,
            prog,
            name: "bpf_obj_free_fields",
        };
        host.give_back(&mut call, Object::Kptr, pointer.raw());
    }

    /// Reads a pointer and leaves NULL; NULL, too, where the value has no such bytes.
    fn take_pointer(&self, place: KernAddr) -> KernAddr {
        let pointer = self.mem.read_u64(place).unwrap_or(0);
        if pointer != 0 {
            // It was read from there.
            let _written = self.mem.write_u64(place, 0);
        }
        KernAddr::new(pointer)
    }

    /// The value of a map that owns things, around this address, and where it starts; on a per-CPU
    /// map one CPU's copy.
    fn value_around(&self, addr: KernAddr) -> Option<(&Map, KernAddr)> {
        self.owning_maps.iter().find_map(|id| {
            let map = &self.maps[id.index()];
            let block = map.block_of(addr)?;
            let offset = addr.offset_from(block)?;
            let copy = block.checked_add(offset - offset % map.stride())?;
            Some((map, copy))
        })
    }

    /// Asks something about the special fields of the object or map value around an address.
    pub(crate) fn fields_around<R>(
        &mut self,
        addr: KernAddr,
        ask: impl FnOnce(&Fields<'_>) -> R,
    ) -> Option<R> {
        if let Some((start, own)) = self.objects.around(addr) {
            let btf = own.ty.btf;
            let record = self.types.record(own.ty).ok()?;
            let list = &record.fields;
            return Some(ask(&Fields { start, btf, list }));
        }
        let (map, start) = self.value_around(addr)?;
        Some(ask(&Fields {
            start,
            btf: map.btf,
            list: &map.spec.special_fields,
        }))
    }
}
