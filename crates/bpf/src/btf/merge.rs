//! Several tables of types to one, in which equal types stand once.
//!
//! ```text
//! files' types ─ numbered through, aliases resolved ─► joint table ─ classes ─► one table
//! ```
//!
//! Types may name each other in circles, so equality is found from the other side: all types
//! that look alike start in one class, and classes are split until the types of each refer to
//! types of equal classes. What is left in one class is the same type. Variables and sections
//! are never made one: two statics of one name are two.
//!
//! A struct that is only declared is then the one of its name that is defined, if there is just
//! one, as in libbpf's `btf__dedup()`; which may make other types equal, and those again.

use super::build::encode_type;
use super::visit::{refer, rename};
use super::{Btf, Kind, Name, SecVar, Strings, Type, TypeId};
use std::collections::{BTreeMap, BTreeSet};

/// Types looked at while classes are split, in all rounds. If that does not suffice, equal types
/// stay apart, which costs space only.
const LOOKS_MAX: usize = 1 << 27;
/// Fewest and most rounds: no types of programs are nested as deeply as the latter.
const ROUNDS: (usize, usize) = (16, 1000);
/// How often declarations are looked up: a struct becomes one when those it points to have, and no
/// more than a few stand in such a row.
const LOOKUPS_MAX: usize = 4;
/// Members of a section, by the width of their count in files.
const VARS_MAX: usize = 0xffff;

/// What becomes of a type of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// It is taken over.
    Kept,
    /// Another type, of the file with this number, stands for it.
    Alias(usize, TypeId),
    /// It is left out; what refers to it refers to `void`.
    Dropped,
}

/// Why tables do not become one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum MergeError {
    #[error("the strings of all types together are longer than the files")]
    Strings,
    #[error("a section has more than {VARS_MAX} variables")]
    TooManyVars,
}

/// Strings, each once, as far as `budget` bytes go: strings may share tails in a hostile file,
/// and would be far longer apart.
#[derive(Debug)]
struct Interner {
    text: String,
    offsets: BTreeMap<String, u32>,
    budget: usize,
}

impl Interner {
    fn get(&mut self, text: &str) -> Result<u32, MergeError> {
        if let Some(offset) = self.offsets.get(text) {
            return Ok(*offset);
        }
        let need = text.len().saturating_add(1);
        let end = self.text.len().saturating_add(need);
        let start = u32::try_from(self.text.len());
        let start = start.ok().filter(|_| end <= self.budget);
        let start = start.ok_or(MergeError::Strings)?;
        self.text.push_str(text);
        self.text.push('\0');
        self.offsets.insert(text.to_owned(), start);
        Ok(start)
    }
}

/// The table that the others become.
#[derive(Debug)]
pub(crate) struct Merged {
    types: Vec<Type>,
    strings: Interner,
    /// New ids by file and old id; `None` if dropped.
    ids: Vec<Vec<Option<TypeId>>>,
}

impl Merged {
    /// Merges all types of all files but the `DataSec`s, which are made anew.
    pub(crate) fn new(
        files: &[&Btf],
        fate: impl Fn(usize, TypeId) -> Fate,
    ) -> Result<Self, MergeError> {
        let lens = files.iter().map(|file| file.strings.as_bytes().len());
        let len = lens.fold(0usize, usize::saturating_add);
        let mut strings = Interner {
            text: "\0".to_owned(),
            offsets: BTreeMap::from([(String::new(), 0)]),
            // Names of sections are not among the types' strings.
            budget: len.saturating_mul(2).saturating_add(1 << 16),
        };
        let numbers = number(files, &fate);
        let mut joint = vec![Type::Void];
        for (file, numbers) in files.iter().zip(&numbers) {
            for id in file.ids() {
                if numbers.kept.contains(&id) {
                    let renumber = |id: TypeId| numbers.get(id).unwrap_or(TypeId::VOID);
                    joint.push(adopt(file, id, &mut strings, &renumber)?);
                }
            }
        }
        let (types, finals) = join(joint);
        let renumber = |id: Option<TypeId>| finals.get(usize::try_from(id?.raw()).ok()?).copied();
        let ids = numbers.iter().map(|numbers| {
            let ids = numbers.ids.iter();
            ids.map(|id| renumber(*id)).collect()
        });
        Ok(Self {
            ids: ids.collect(),
            types,
            strings,
        })
    }

    /// The new id of a file's type; `None` if it was dropped.
    pub(crate) fn id(&self, file: usize, id: TypeId) -> Option<TypeId> {
        let index = usize::try_from(id.raw()).ok()?;
        *self.ids.get(file)?.get(index)?
    }

    /// The offset of a string, which is added if it is new.
    pub(crate) fn string(&mut self, text: &str) -> Result<u32, MergeError> {
        self.strings.get(text)
    }

    /// Adds a section.
    pub(crate) fn data_sec(
        &mut self,
        name: &str,
        size: u32,
        vars: Vec<SecVar>,
    ) -> Result<(), MergeError> {
        if vars.len() > VARS_MAX {
            return Err(MergeError::TooManyVars);
        }
        let name = Name(self.strings.get(name)?);
        self.types.push(Type::DataSec { name, size, vars });
        Ok(())
    }

    /// The finished table.
    pub(crate) fn finish(self) -> Btf {
        let strings = Strings::new(self.strings.text).unwrap_or_default();
        Btf::new(self.types, strings)
    }
}

/// Numbers of one file's types in the joint table.
struct Numbers {
    /// Types that are taken over.
    kept: BTreeSet<TypeId>,
    ids: Vec<Option<TypeId>>,
}

impl Numbers {
    fn get(&self, id: TypeId) -> Option<TypeId> {
        *self.ids.get(usize::try_from(id.raw()).ok()?)?
    }
}

fn number(files: &[&Btf], fate: &impl Fn(usize, TypeId) -> Fate) -> Vec<Numbers> {
    let mut next = 1u32;
    let mut numbers = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let mut kept = BTreeSet::new();
        let mut ids = vec![Some(TypeId::VOID)];
        for id in file.ids() {
            let keep = fate(index, id) == Fate::Kept && file.get(id).kind() != Kind::DataSec;
            ids.push(keep.then_some(TypeId(next)));
            if keep {
                kept.insert(id);
                next = next.saturating_add(1);
            }
        }
        numbers.push(Numbers { kept, ids });
    }
    for (index, file) in files.iter().enumerate() {
        for id in file.ids() {
            let Fate::Alias(other, other_id) = fate(index, id) else {
                continue;
            };
            let target = numbers.get(other).and_then(|numbers| numbers.get(other_id));
            let at = usize::try_from(id.raw()).unwrap_or(usize::MAX);
            let slot = numbers.get_mut(index).and_then(|n| n.ids.get_mut(at));
            if let Some(slot) = slot {
                *slot = target;
            }
        }
    }
    numbers
}

/// A type of a file with the strings and numbers of the joint table.
fn adopt(
    file: &Btf,
    id: TypeId,
    strings: &mut Interner,
    renumber: &impl Fn(TypeId) -> TypeId,
) -> Result<Type, MergeError> {
    let mut ty = file.get(id).clone();
    let mut failed = Ok(());
    rename(&mut ty, &mut |name| {
        match strings.get(file.str(*name)) {
            Ok(offset) => *name = Name(offset),
            Err(error) => failed = Err(error),
        };
    });
    refer(&mut ty, &mut |id| *id = renumber(*id));
    failed.map(|()| ty)
}

/// Each type once, and the new id of each. Declarations are gone where there is a definition.
fn join(joint: Vec<Type>) -> (Vec<Type>, Vec<TypeId>) {
    let (mut types, mut ids) = join_equals(joint, &BTreeMap::new());
    for _ in 0..LOOKUPS_MAX {
        let definitions = definitions(&types);
        if definitions.is_empty() {
            break;
        }
        for ty in &mut types {
            refer(ty, &mut |id| {
                *id = definitions.get(id).copied().unwrap_or(*id);
            });
        }
        let (joined, renumbered) = join_equals(types, &definitions);
        types = joined;
        for id in &mut ids {
            let index = usize::try_from(id.raw()).unwrap_or(usize::MAX);
            *id = renumbered.get(index).copied().unwrap_or_default();
        }
    }
    (types, ids)
}

/// The one struct or union that each declaration stands for, where there is one.
fn definitions(types: &[Type]) -> BTreeMap<TypeId, TypeId> {
    let mut defined: BTreeMap<(u32, bool), Option<TypeId>> = BTreeMap::new();
    for (id, ty) in (0u32..).map(TypeId).zip(types) {
        if let Type::Struct(composite) | Type::Union(composite) = ty
            && composite.name != Name(0)
        {
            let key = (composite.name.0, ty.kind() == Kind::Union);
            let one = defined.entry(key);
            one.and_modify(|one| *one = None).or_insert(Some(id));
        }
    }
    let declared = (0u32..).map(TypeId).zip(types);
    declared
        .filter_map(|(id, ty)| match ty {
            Type::Fwd { name, is_union } => {
                let definition = defined.get(&(name.0, *is_union)).copied().flatten();
                Some((id, definition?))
            }
            _ => None,
        })
        .collect()
}

/// One type of each class, and the class of each type: its new id. `stand_ins` get the class of
/// another type each.
fn join_equals(
    mut types: Vec<Type>,
    stand_ins: &BTreeMap<TypeId, TypeId>,
) -> (Vec<Type>, Vec<TypeId>) {
    let mut classes = classes(&mut types);
    for (id, other) in stand_ins {
        let index = |id: &TypeId| usize::try_from(id.raw()).unwrap_or(usize::MAX);
        let class = classes.get(index(other)).copied();
        if let Some((to, class)) = classes.get_mut(index(id)).zip(class) {
            *to = class;
        }
    }
    // Classes are numbered in the order in which their first types come; declarations that have
    // a definition are in its class, and not the type that is kept of it.
    let mut order: BTreeMap<u32, TypeId> = BTreeMap::new();
    let mut firsts = Vec::new();
    let own = (0u32..).map(TypeId).zip(types.iter().zip(&classes));
    for (_, (ty, class)) in own.filter(|(id, _)| !stand_ins.contains_key(id)) {
        let next = TypeId(u32::try_from(order.len()).unwrap_or(u32::MAX));
        order.entry(*class).or_insert_with(|| {
            firsts.push(ty.clone());
            next
        });
    }
    for class in &mut classes {
        *class = order.get(class).map_or(0, |id| id.raw());
    }
    let class_of = |id: TypeId| {
        let index = usize::try_from(id.raw()).unwrap_or(usize::MAX);
        TypeId(classes.get(index).copied().unwrap_or(0))
    };
    for ty in &mut firsts {
        refer(ty, &mut |id| *id = class_of(*id));
    }
    (firsts, classes.into_iter().map(TypeId).collect())
}

/// The class of each type; each its own if this takes too long.
fn classes(types: &mut [Type]) -> Vec<u32> {
    let mut shapes: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    let mut classes = Vec::new();
    let mut references: Vec<Vec<TypeId>> = Vec::new();
    for (index, ty) in types.iter().enumerate() {
        let mut shape = ty.clone();
        let mut ids = Vec::new();
        refer(&mut shape, &mut |id| ids.push(std::mem::take(id)));
        let mut bytes = Vec::new();
        encode_type(&shape, &mut bytes);
        if ty.kind() == Kind::Var {
            bytes.extend(index.to_le_bytes());
        }
        let next = u32::try_from(shapes.len()).unwrap_or(u32::MAX);
        classes.push(*shapes.entry(bytes).or_insert(next));
        references.push(ids);
    }
    let mut count = shapes.len();
    let rounds = LOOKS_MAX.checked_div(types.len()).unwrap_or(0);
    for _ in 0..rounds.clamp(ROUNDS.0, ROUNDS.1) {
        let mut seen: BTreeMap<Vec<u32>, u32> = BTreeMap::new();
        let mut split = Vec::new();
        for (class, ids) in classes.iter().zip(&references) {
            let class_of = |id: &TypeId| {
                let index = usize::try_from(id.raw()).unwrap_or(usize::MAX);
                classes.get(index).copied().unwrap_or(0)
            };
            let key = std::iter::once(*class).chain(ids.iter().map(class_of));
            let next = u32::try_from(seen.len()).unwrap_or(u32::MAX);
            split.push(*seen.entry(key.collect()).or_insert(next));
        }
        classes = split;
        if seen.len() == count {
            return classes;
        }
        count = seen.len();
    }
    let all = u32::try_from(types.len()).unwrap_or(u32::MAX);
    (0..all).collect()
}
