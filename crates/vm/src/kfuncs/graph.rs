//! Lists and red-black trees of objects: `bpf_list_*` and `bpf_rbtree_*`.
//!
//! What a root holds is declared (`contains:`), and the lock that protects it lies beside it: in
//! the same map value, or in the same object. Whoever calls any of these holds that lock. A node
//! that is put in is the list's or tree's from then on, and may be looked at until the lock goes:
//! plain loads and stores after that are not found out, as the memory is there for the whole run.

use harena_abi::{Errno, KernAddr};
use harena_bpf::{Contained, SpecialField, SpecialKind};

use crate::error::Abort;
use crate::held::{self, Object};
use crate::helpers::{Answer, Ctx, Fail, call_back, callback_slot};
use crate::owned::{BtfId, End, Fields, LocalType, Side};

/// What a list or tree costs, in instructions.
const INSNS_PER_STEP: u64 = 4;

/// A root, whose lock is held.
#[derive(Clone, Copy)]
struct Root {
    at: KernAddr,
    /// What it holds, in the types of this object file.
    holds: Contained,
    btf: BtfId,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    List,
    Tree,
}

impl Kind {
    const fn root(self) -> SpecialKind {
        match self {
            Self::List => SpecialKind::ListHead,
            Self::Tree => SpecialKind::RbRoot,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::List => "bpf_list_head",
            Self::Tree => "bpf_rb_root",
        }
    }
}

/// What a field is as a lock, and where it lies.
fn lock(fields: &Fields<'_>, field: &SpecialField) -> Option<(Object, KernAddr)> {
    let lock = if field.kind == SpecialKind::SpinLock {
        Object::SpinLock
    } else if field.kind == SpecialKind::ResSpinLock {
        Object::ResLock
    } else {
        return None;
    };
    Some((lock, fields.start.checked_add(field.offset.into())?))
}

/// The root that an argument names, which is of this kind and locked.
fn root(ctx: &mut Ctx<'_>, addr: u64, kind: Kind) -> Result<Root, Fail> {
    let maps = ctx.vm.owning_maps.len() as u64;
    ctx.vm.charge(INSNS_PER_STEP + maps)?;
    let (at, name) = (KernAddr::new(addr), kind.name());
    if ctx.vm.runs.last().is_some_and(|run| run.comparing) {
        return Err(ctx.bad("not allowed in the callback that compares nodes"));
    }
    let found = ctx.vm.fields_around(at, |fields| {
        let field = fields.at(at, |found| found == kind.root())?;
        let lock = fields.list.iter().find_map(|field| lock(fields, field));
        Some((field.contains, fields.btf, lock))
    });
    let Some((holds, btf, lock)) = found.flatten() else {
        return Err(ctx.bad(format!("{at} is no {name} in a map value or an object")));
    };
    let Some(holds) = holds else {
        return Err(ctx.bad(format!("{name} {at} does not say which nodes it contains")));
    };
    let Some((lock, place)) = lock else {
        return Err(ctx.bad(format!("no lock lies beside {name} {at}")));
    };
    held::check_locked(ctx.vm, ctx.name, lock, place)?;
    Ok(Root { at, holds, btf })
}

/// The object that an argument names a node of, for this root.
fn object_of(ctx: &Ctx<'_>, node: u64, root: &Root) -> Result<KernAddr, Fail> {
    let (at, holds) = (KernAddr::new(node), root.holds);
    let wanted = LocalType {
        btf: root.btf,
        id: holds.type_id,
    };
    let wanted_name = ctx.vm.types.name(wanted);
    let wants = format!(
        "node at byte {} of struct `{wanted_name}`",
        holds.node_offset
    );
    let Some((start, own)) = ctx.vm.objects.around(at) else {
        return Err(ctx.bad(format!("{at} lies in no object, expected is the {wants}")));
    };
    let offset = at.offset_from(start).unwrap_or(0);
    if own.ty != wanted || offset != u64::from(holds.node_offset) {
        let name = ctx.vm.types.name(own.ty);
        return Err(ctx.bad(format!(
            "{at} is byte {offset} of struct `{name}`, expected is the {wants}"
        )));
    }
    Ok(start)
}

fn pointer(node: Option<KernAddr>) -> u64 {
    node.map_or(0, KernAddr::raw)
}

/// The run owns what was taken out.
fn taken(ctx: &mut Ctx<'_>, node: KernAddr) -> Answer {
    if let Some((object, _)) = ctx.vm.objects.around(node) {
        held::begin(ctx.vm, ctx.name, Object::Local, object.raw());
    }
    Ok(node.raw())
}

/// A node that is somewhere already: the call has used up an owner of its object, which is dropped.
fn refuse_node(ctx: &mut Ctx<'_>, object: KernAddr) -> Answer {
    held::end_of(ctx.vm, ctx.name, Object::Local, object.raw());
    ctx.vm.drop_object(object, ctx.host);
    Err(Errno::EINVAL.into())
}

// ---- lists --------------------------------------------------------------------------------

fn push(ctx: &mut Ctx<'_>, head: u64, node: u64, end: End) -> Answer {
    let root = root(ctx, head, Kind::List)?;
    let object = object_of(ctx, node, &root)?;
    held::check_held(ctx.vm, ctx.name, Object::Local, object.raw())?;
    let node = KernAddr::new(node);
    if ctx.vm.objects.lists.head_of(node).is_some() {
        return refuse_node(ctx, object);
    }
    held::end_of(ctx.vm, ctx.name, Object::Local, object.raw());
    ctx.vm.objects.lists.push(root.at, node, end);
    Ok(0)
}

/// `bpf_list_push_front(head, node)`.
pub(super) fn push_front(ctx: &mut Ctx<'_>, [head, node, ..]: [u64; 5]) -> Answer {
    push(ctx, head, node, End::Front)
}

/// `bpf_list_push_back(head, node)`.
pub(super) fn push_back(ctx: &mut Ctx<'_>, [head, node, ..]: [u64; 5]) -> Answer {
    push(ctx, head, node, End::Back)
}

fn pop(ctx: &mut Ctx<'_>, head: u64, end: End) -> Answer {
    let root = root(ctx, head, Kind::List)?;
    match ctx.vm.objects.lists.end(root.at, end) {
        Some(node) => {
            ctx.vm.objects.lists.forget(node);
            taken(ctx, node)
        }
        None => Ok(0),
    }
}

/// `bpf_list_pop_front(head)`.
pub(super) fn pop_front(ctx: &mut Ctx<'_>, [head, ..]: [u64; 5]) -> Answer {
    pop(ctx, head, End::Front)
}

/// `bpf_list_pop_back(head)`.
pub(super) fn pop_back(ctx: &mut Ctx<'_>, [head, ..]: [u64; 5]) -> Answer {
    pop(ctx, head, End::Back)
}

/// `bpf_list_front(head)`.
pub(super) fn front(ctx: &mut Ctx<'_>, [head, ..]: [u64; 5]) -> Answer {
    let root = root(ctx, head, Kind::List)?;
    Ok(pointer(ctx.vm.objects.lists.end(root.at, End::Front)))
}

/// `bpf_list_back(head)`.
pub(super) fn back(ctx: &mut Ctx<'_>, [head, ..]: [u64; 5]) -> Answer {
    let root = root(ctx, head, Kind::List)?;
    Ok(pointer(ctx.vm.objects.lists.end(root.at, End::Back)))
}

/// `bpf_list_add(head, new, prev)`: behind a node that must be in this list.
pub(super) fn insert(ctx: &mut Ctx<'_>, [head, node, prev, ..]: [u64; 5]) -> Answer {
    let root = root(ctx, head, Kind::List)?;
    let object = object_of(ctx, node, &root)?;
    object_of(ctx, prev, &root)?;
    held::check_held(ctx.vm, ctx.name, Object::Local, object.raw())?;
    let (node, prev) = (KernAddr::new(node), KernAddr::new(prev));
    let lists = &ctx.vm.objects.lists;
    if lists.head_of(node).is_some() || lists.head_of(prev) != Some(root.at) {
        return refuse_node(ctx, object);
    }
    held::end_of(ctx.vm, ctx.name, Object::Local, object.raw());
    ctx.vm.objects.lists.insert_after(prev, node);
    Ok(0)
}

/// `bpf_list_del(head, node)`: NULL if the node is not in this list.
pub(super) fn del(ctx: &mut Ctx<'_>, [head, node, ..]: [u64; 5]) -> Answer {
    let root = root(ctx, head, Kind::List)?;
    object_of(ctx, node, &root)?;
    let node = KernAddr::new(node);
    if ctx.vm.objects.lists.head_of(node) != Some(root.at) {
        return Ok(0);
    }
    ctx.vm.objects.lists.forget(node);
    taken(ctx, node)
}

/// `bpf_list_empty(head)`.
pub(super) fn is_empty(ctx: &mut Ctx<'_>, [head, ..]: [u64; 5]) -> Answer {
    let root = root(ctx, head, Kind::List)?;
    let first = ctx.vm.objects.lists.end(root.at, End::Front);
    Ok(first.is_none().into())
}

fn is_at(ctx: &mut Ctx<'_>, head: u64, node: u64, end: End) -> Answer {
    let root = root(ctx, head, Kind::List)?;
    object_of(ctx, node, &root)?;
    let found = ctx.vm.objects.lists.end(root.at, end);
    Ok((found == Some(KernAddr::new(node))).into())
}

/// `bpf_list_is_first(head, node)`.
pub(super) fn is_first(ctx: &mut Ctx<'_>, [head, node, ..]: [u64; 5]) -> Answer {
    is_at(ctx, head, node, End::Front)
}

/// `bpf_list_is_last(head, node)`.
pub(super) fn is_last(ctx: &mut Ctx<'_>, [head, node, ..]: [u64; 5]) -> Answer {
    is_at(ctx, head, node, End::Back)
}

// ---- trees --------------------------------------------------------------------------------

/// `bpf_rbtree_add(root, node, less)`.
pub(super) fn add(ctx: &mut Ctx<'_>, [root_at, node, less, ..]: [u64; 5]) -> Answer {
    let root = root(ctx, root_at, Kind::Tree)?;
    let object = object_of(ctx, node, &root)?;
    held::check_held(ctx.vm, ctx.name, Object::Local, object.raw())?;
    let slot = callback_slot(ctx, less)?;
    let node = KernAddr::new(node);
    if ctx.vm.objects.trees.root_of(node).is_some() {
        return refuse_node(ctx, object);
    }
    let mut place = None;
    let mut next = ctx.vm.objects.trees.top(root.at);
    while let Some(parent) = next {
        let side = if is_less(ctx, slot, node, parent)? {
            Side::Left
        } else {
            Side::Right
        };
        // A program that the callback interrupted may have got at the tree.
        if ctx.vm.objects.trees.root_of(parent) != Some(root.at) {
            return Err(ctx.bad("the tree changed while its nodes were compared"));
        }
        place = Some((parent, side));
        next = ctx.vm.objects.trees.child(parent, side);
    }
    let is_free = place.is_some() || ctx.vm.objects.trees.top(root.at).is_none();
    if !is_free || ctx.vm.objects.trees.root_of(node).is_some() {
        return Err(ctx.bad("the tree changed while its nodes were compared"));
    }
    held::end_of(ctx.vm, ctx.name, Object::Local, object.raw());
    ctx.vm.objects.trees.insert(root.at, node, place);
    Ok(0)
}

/// Asks the program whether one node comes before another.
fn is_less(ctx: &mut Ctx<'_>, slot: u32, a: KernAddr, b: KernAddr) -> Result<bool, Abort> {
    let comparing = |ctx: &mut Ctx<'_>, comparing| {
        let run = ctx.vm.runs.last_mut().expect("a call belongs to a run");
        run.comparing = comparing;
    };
    comparing(ctx, true);
    let less = call_back(ctx, slot, [a.raw(), b.raw(), 0, 0, 0]);
    comparing(ctx, false);
    Ok(less? != 0)
}

/// `bpf_rbtree_remove(root, node)`: NULL if the node is not in this tree.
pub(super) fn remove(ctx: &mut Ctx<'_>, [root_at, node, ..]: [u64; 5]) -> Answer {
    let root = root(ctx, root_at, Kind::Tree)?;
    object_of(ctx, node, &root)?;
    let node = KernAddr::new(node);
    if ctx.vm.objects.trees.root_of(node) != Some(root.at) {
        return Ok(0);
    }
    ctx.vm.objects.trees.forget(node);
    taken(ctx, node)
}

/// `bpf_rbtree_first(root)`.
pub(super) fn first(ctx: &mut Ctx<'_>, [root_at, ..]: [u64; 5]) -> Answer {
    let root = root(ctx, root_at, Kind::Tree)?;
    Ok(pointer(ctx.vm.objects.trees.first(root.at)))
}

/// `bpf_rbtree_root(root)`: the node at the top.
pub(super) fn top(ctx: &mut Ctx<'_>, [root_at, ..]: [u64; 5]) -> Answer {
    let root = root(ctx, root_at, Kind::Tree)?;
    Ok(pointer(ctx.vm.objects.trees.top(root.at)))
}

fn child(ctx: &mut Ctx<'_>, root_at: u64, node: u64, side: Side) -> Answer {
    let root = root(ctx, root_at, Kind::Tree)?;
    object_of(ctx, node, &root)?;
    let node = KernAddr::new(node);
    if ctx.vm.objects.trees.root_of(node) != Some(root.at) {
        return Ok(0);
    }
    Ok(pointer(ctx.vm.objects.trees.child(node, side)))
}

/// `bpf_rbtree_left(root, node)`: NULL, too, if the node is not in this tree.
pub(super) fn left(ctx: &mut Ctx<'_>, [root_at, node, ..]: [u64; 5]) -> Answer {
    child(ctx, root_at, node, Side::Left)
}

/// `bpf_rbtree_right(root, node)`.
pub(super) fn right(ctx: &mut Ctx<'_>, [root_at, node, ..]: [u64; 5]) -> Answer {
    child(ctx, root_at, node, Side::Right)
}
