//! Do two files mean the same thing by one name?
//!
//! Types have to be equal but for qualifiers, names of typedefs and of parameters, lengths of
//! arrays, and what pointers point to, of which only the name counts. Mirrors libbpf's
//! `glob_sym_btf_matches()` and `map_defs_match()`.

use crate::btf::{Btf, Composite, Type, TypeId};
use crate::linked::LinkedMap;
use crate::object::maps::{Nesting, definition};

/// Levels of types that are compared.
const DEPTH_MAX: u32 = 32;
/// Pairs of types that are compared, for all symbols together.
pub(super) const STEPS_MAX: u32 = 1 << 22;

/// A type and the table it is in.
pub(super) type Place<'a> = (&'a Btf, TypeId);

/// A variable or function as in C.
pub(super) fn declaration((btf, id): Place<'_>, name: &str) -> String {
    match btf.get(id) {
        Type::Var { type_id, .. } => btf.c_declaration(*type_id, name),
        Type::Func { proto, .. } => btf.c_declaration(*proto, name),
        _ => btf.c_declaration(id, name),
    }
}

/// Compares types of variables or functions; an error says how they differ.
pub(super) fn types(first: Place<'_>, second: Place<'_>, steps: &mut u32) -> Result<(), String> {
    let mut compare = Compare {
        first: first.0,
        second: second.0,
        steps,
    };
    compare.same(first.1, second.1, Depth::Exact, DEPTH_MAX)
}

/// Compares definitions of maps; an error says how they differ.
pub(super) fn maps(
    name: &str,
    first: Place<'_>,
    second: Place<'_>,
    steps: &mut u32,
) -> Result<(), String> {
    let parse = |(btf, id): Place<'_>| {
        let map = definition(btf, name, id, Nesting::Outer);
        map.map(|(map, _values)| map)
            .map_err(|cause| cause.to_string())
    };
    let (ours, theirs) = (parse(first)?, parse(second)?);
    same_map((first.0, &ours), (second.0, &theirs), steps)
}

fn same_map(
    first: (&Btf, &LinkedMap),
    second: (&Btf, &LinkedMap),
    steps: &mut u32,
) -> Result<(), String> {
    let ((first_btf, first), (second_btf, second)) = (first, second);
    let numbers = |map: &LinkedMap| {
        [
            ("type", u64::from(map.map_type.0)),
            ("key size", map.key_size.into()),
            ("value size", map.value_size.into()),
            ("max_entries", map.max_entries.into()),
            ("map_flags", map.map_flags.into()),
            ("map_extra", map.map_extra),
            ("pinning", map.pin_by_name.into()),
        ]
    };
    for ((what, ours), (_, theirs)) in numbers(first).into_iter().zip(numbers(second)) {
        if ours != theirs {
            return Err(format!("{what} is {ours} and {theirs}"));
        }
    }
    let parts = [
        ("key", first.key_type, second.key_type),
        ("value", first.value_type, second.value_type),
    ];
    for (what, ours, theirs) in parts {
        match (ours, theirs) {
            (Some(ours), Some(theirs)) => types((first_btf, ours), (second_btf, theirs), steps)
                .map_err(|cause| format!("type of its {what}: {cause}"))?,
            (None, None) => {}
            _ => return Err(format!("its {what} has a type in one only")),
        }
    }
    match (&first.inner, &second.inner) {
        (Some(ours), Some(theirs)) => {
            let same = same_map((first_btf, ours), (second_btf, theirs), steps);
            same.map_err(|cause| format!("maps in it: {cause}"))
        }
        (None, None) => Ok(()),
        _ => Err("maps in it are described in one only".to_owned()),
    }
}

/// How much of a struct counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// All of it.
    Exact,
    /// Its name: it is behind a pointer.
    Name,
}

struct Compare<'a> {
    first: &'a Btf,
    second: &'a Btf,
    /// What is left of the steps.
    steps: &'a mut u32,
}

impl Compare<'_> {
    fn same(
        &mut self,
        first: TypeId,
        second: TypeId,
        depth: Depth,
        levels: u32,
    ) -> Result<(), String> {
        let levels = levels.checked_sub(1);
        let budget = self.steps.checked_sub(1).zip(levels);
        let (steps, levels) = budget.ok_or("types are nested too deeply to compare")?;
        *self.steps = steps;
        let resolve = |btf: &Btf, id| btf.resolve(id).map_err(|cause| cause.to_string());
        let (first, second) = (resolve(self.first, first)?, resolve(self.second, second)?);
        let (ours, theirs) = (self.first.get(first), self.second.get(second));
        if depth == Depth::Name && is_declared(ours, theirs) {
            return self.same_name(ours, theirs);
        }
        match (ours, theirs) {
            (Type::Void, Type::Void) => Ok(()),
            (Type::Int { size: a, .. }, Type::Int { size: b, .. })
            | (Type::Float { size: a, .. }, Type::Float { size: b, .. }) => same_size(*a, *b),
            (Type::Enum(a), Type::Enum(b)) => {
                self.same_name(ours, theirs)?;
                same_size(a.size, b.size)
            }
            (Type::Fwd { is_union: a, .. }, Type::Fwd { is_union: b, .. }) if a == b => {
                self.same_name(ours, theirs)
            }
            (Type::Ptr { target: a }, Type::Ptr { target: b }) => {
                self.same(*a, *b, Depth::Name, levels)
            }
            (Type::Array { element: a, .. }, Type::Array { element: b, .. }) => {
                self.same(*a, *b, depth, levels)
            }
            (Type::Struct(a), Type::Struct(b)) | (Type::Union(a), Type::Union(b)) => {
                self.same_name(ours, theirs)?;
                if depth == Depth::Name {
                    return Ok(());
                }
                self.same_members(a, b, levels)
            }
            (Type::Func { proto: a, .. }, Type::Func { proto: b, .. })
            | (Type::Var { type_id: a, .. }, Type::Var { type_id: b, .. }) => {
                self.same(*a, *b, depth, levels)
            }
            (
                Type::FuncProto {
                    ret: first_ret,
                    params: a,
                },
                Type::FuncProto {
                    ret: second_ret,
                    params: b,
                },
            ) => {
                if a.len() != b.len() {
                    return Err(format!("{} and {} parameters", a.len(), b.len()));
                }
                for (a, b) in a.iter().zip(b) {
                    self.same(a.type_id, b.type_id, depth, levels)?;
                }
                self.same(*first_ret, *second_ret, depth, levels)
            }
            _ => {
                let (ours, theirs) = (self.first.c_type(first), self.second.c_type(second));
                Err(format!("`{ours}` is no `{theirs}`"))
            }
        }
    }

    fn same_name(&self, first: &Type, second: &Type) -> Result<(), String> {
        let (a, b) = (self.first.str(first.name()), self.second.str(second.name()));
        if a == b {
            return Ok(());
        }
        Err(format!("types are called `{a}` and `{b}`"))
    }

    fn same_members(&mut self, a: &Composite, b: &Composite, levels: u32) -> Result<(), String> {
        let name = self.first.str(a.name).to_owned();
        let counts = (a.members.len(), b.members.len());
        if counts.0 != counts.1 {
            return Err(format!(
                "`{name}` has {} and {} members",
                counts.0, counts.1
            ));
        }
        same_size(a.size, b.size).map_err(|cause| format!("`{name}`: {cause}"))?;
        for (a, b) in a.members.iter().zip(&b.members) {
            let (ours, theirs) = (self.first.str(a.name), self.second.str(b.name));
            if ours != theirs {
                return Err(format!("`{name}` has member `{ours}` or `{theirs}`"));
            }
            if (a.bit_offset, a.bit_size) != (b.bit_offset, b.bit_size) {
                return Err(format!("`{ours}` of `{name}` has two places"));
            }
            self.same(a.type_id, b.type_id, Depth::Exact, levels)
                .map_err(|cause| format!("`{ours}` of `{name}`: {cause}"))?;
        }
        Ok(())
    }
}

/// Whether one is declared where the other one may be defined.
const fn is_declared(ours: &Type, theirs: &Type) -> bool {
    matches!(
        (ours, theirs),
        (
            Type::Fwd {
                is_union: false,
                ..
            },
            Type::Struct(_)
        ) | (
            Type::Struct(_),
            Type::Fwd {
                is_union: false,
                ..
            }
        ) | (Type::Fwd { is_union: true, .. }, Type::Union(_))
            | (Type::Union(_), Type::Fwd { is_union: true, .. })
    )
}

fn same_size(a: u32, b: u32) -> Result<(), String> {
    if a == b {
        return Ok(());
    }
    Err(format!("{a} and {b} bytes"))
}
