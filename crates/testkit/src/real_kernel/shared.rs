//! Programs of any instructions in the running kernel, and the memory they share with a test.
//!
//! Each run begins with the same memory: an array's one value and a hash map without keys, zeroed,
//! and an arena of which only some pages are there.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};

use harena_bpf::KernelSymbols;
use harena_bpf::btf::{BtfBuilder, IntEncoding, Linkage};
use harena_bpf::isa::op::{PseudoCall, PseudoLoad};
use harena_bpf::isa::{Insn, encode};

use super::machine::LiveSymbols;
use super::sys::{self, FuncInfo, UserMapping};

const PAGE_BYTES: u64 = 4096;
const MMAPABLE: u32 = 1 << 10;

/// What programs find.
#[derive(Clone, Debug)]
pub struct SharedLayout {
    /// Bytes of the value of map 0, an array with one.
    pub value_bytes: u32,
    /// Pages of map 1, an arena.
    pub arena_pages: u32,
    /// Where it begins for users.
    pub user_vm_start: u64,
    /// Pages of it that are there when a program starts.
    pub present: Vec<u32>,
    /// Keys that map 3, a hash map, has room for. Map 2 is the caller's own.
    pub hash_entries: u32,
    /// Programs use keys below this number.
    pub hash_keys: u32,
    /// Bytes of one value of the hash map.
    pub hash_value_bytes: u32,
}

/// What a program left behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SharedEnd {
    /// The lower half of r0, which is all that the kernel tells.
    pub ret: u32,
    /// The context.
    pub context: Vec<u8>,
    /// The array's value.
    pub value: Vec<u8>,
    /// All pages of the arena, as a user sees them: one that is not there is zero.
    pub arena: Vec<u8>,
    /// Values of the hash map by key.
    pub hash: BTreeMap<u32, Vec<u8>>,
}

/// The maps, and the program that empties the arena.
#[derive(Debug)]
pub struct SharedMemory {
    layout: SharedLayout,
    array: OwnedFd,
    arena: OwnedFd,
    hash: OwnedFd,
    user: UserMapping,
    kfuncs: BTreeMap<u32, i32>,
    empties: OwnedFd,
}

impl SharedMemory {
    /// Creates the maps; `kfuncs` are those that programs may call, by the numbers that they are
    /// called by. Or why this kernel cannot run such programs.
    pub fn new(
        symbols: &LiveSymbols,
        layout: SharedLayout,
        kfuncs: &[(u32, &str)],
    ) -> Result<Self, String> {
        let named = |what: &'static str| move |error| format!("{what}: {error}");
        let arena = sys::create_arena(layout.arena_pages, MMAPABLE, layout.user_vm_start)
            .map_err(named("creating an arena"))?;
        let bytes = usize::try_from(u64::from(layout.arena_pages) * PAGE_BYTES)
            .expect("arenas of tests are small");
        let user = UserMapping::new(&arena, layout.user_vm_start, bytes)
            .map_err(named("mapping an arena"))?;
        let array = sys::create_array(layout.value_bytes).map_err(named("creating an array"))?;
        let hash = sys::create_hash(layout.hash_value_bytes, layout.hash_entries)
            .map_err(named("creating a hash map"))?;
        let id = |name: &str| {
            let kfunc = symbols.kfunc(name);
            let id = kfunc.and_then(|kfunc| i32::try_from(kfunc.id).ok());
            id.ok_or_else(|| format!("this kernel has no `{name}`"))
        };
        let kfuncs = kfuncs
            .iter()
            .map(|(number, name)| Ok((*number, id(name)?)))
            .collect::<Result<_, String>>()?;
        let empties = emptying_program(&arena, &layout, id("bpf_arena_free_pages")?)?;
        Ok(Self {
            layout,
            array,
            arena,
            hash,
            user,
            kfuncs,
            empties,
        })
    }

    /// Runs a program whose functions begin at these slots, the first at 0, with this context; or
    /// what the verifier says.
    ///
    /// # Panics
    ///
    /// If a program names other maps or kfuncs than there are.
    pub fn run(
        &self,
        insns: &[Insn],
        functions: &[u32],
        context: &[u8],
    ) -> Result<SharedEnd, String> {
        let code = encode(&self.with_descriptors(insns));
        let btf = sys::load_btf(&functions_btf(functions.len()))
            .map_err(|error| format!("loading BTF: {error}"))?;
        let infos: Vec<_> = functions
            .iter()
            .zip(FIRST_FUNCTION..)
            .map(|(&insn_off, type_id)| FuncInfo { insn_off, type_id })
            .collect();
        let program = sys::load_syscall_program(&code, Some((&btf, &infos)))?;
        self.reset();
        let mut context = context.to_vec();
        let ret = sys::run(&program, &mut context).map_err(|error| format!("running: {error}"))?;
        Ok(self.end(ret, context))
    }

    fn reset(&self) {
        sys::run(&self.empties, &mut [0; 8]).expect("this program was loaded");
        for page in &self.layout.present {
            self.user.write(u64::from(*page) * PAGE_BYTES, 0);
        }
        let zeros = vec![0; usize::try_from(self.layout.value_bytes).expect("values are small")];
        sys::update(&self.array, 0, &zeros).expect("the array has one value");
        for key in 0..self.layout.hash_keys {
            sys::delete(&self.hash, key);
        }
    }

    fn end(&self, ret: u32, context: Vec<u8>) -> SharedEnd {
        let words = u64::from(self.layout.arena_pages) * PAGE_BYTES / 8;
        let keys = 0..self.layout.hash_keys;
        SharedEnd {
            ret,
            context,
            value: sys::lookup(&self.array, 0, self.layout.value_bytes)
                .expect("the array has one value"),
            arena: (0..words)
                .flat_map(|word| self.user.read(word * 8).to_ne_bytes())
                .collect(),
            hash: keys
                .filter_map(|key| {
                    let value = sys::lookup(&self.hash, key, self.layout.hash_value_bytes)?;
                    Some((key, value))
                })
                .collect(),
        }
    }

    fn with_descriptors(&self, insns: &[Insn]) -> Vec<Insn> {
        let mut insns = insns.to_vec();
        for insn in &mut insns {
            if let Some(PseudoLoad::Map | PseudoLoad::MapValue) = insn.pseudo_load() {
                let map = match insn.imm {
                    0 => &self.array,
                    1 => &self.arena,
                    3 => &self.hash,
                    other => panic!("no map {other}"),
                };
                insn.imm = map.as_raw_fd();
            }
            if insn.pseudo_call() == Some(PseudoCall::Kfunc) {
                let number = insn.imm.cast_unsigned();
                insn.imm = *self.kfuncs.get(&number).expect("one of the kfuncs");
            }
        }
        insns
    }
}

/// Calls `bpf_arena_free_pages` for all pages.
fn emptying_program(arena: &OwnedFd, layout: &SharedLayout, free: i32) -> Result<OwnedFd, String> {
    let fd = u64::try_from(arena.as_raw_fd()).expect("descriptors are not negative");
    let pages = i32::try_from(layout.arena_pages).expect("arenas of tests are small");
    let mut insns = Insn::ldimm64(1, 1, fd).to_vec();
    insns.extend(Insn::ldimm64(2, 0, layout.user_vm_start));
    insns.push(Insn::new(0xb7, 3, 0, 0, pages));
    insns.push(Insn::new(0x85, 0, 2, 0, free));
    insns.push(Insn::new(0xb7, 0, 0, 0, 0));
    insns.push(Insn::new(0x95, 0, 0, 0, 0));
    sys::load_syscall_program(&encode(&insns), None)
}

/// The first function of [`functions_btf`]: after an int, a pointer and a prototype.
const FIRST_FUNCTION: u32 = 4;

/// Types for `count` functions, which the verifier wants for callbacks: it looks at nothing but
/// that they are static.
fn functions_btf(count: usize) -> Vec<u8> {
    let mut builder = BtfBuilder::new();
    let long = builder.int("long", 8, IntEncoding::Signed);
    let pointer = builder.ptr(long);
    let proto = builder.func_proto(long, &[("context", pointer)]);
    for number in 0..count {
        let func = builder.func(&format!("function_{number}"), proto, Linkage::Static);
        let expected = FIRST_FUNCTION + u32::try_from(number).expect("a few functions");
        assert_eq!(func.raw(), expected);
    }
    builder.finish().to_bytes()
}
