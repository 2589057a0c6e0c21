//! Paths into types: parsing the compiler's, and finding the same in a kernel.

use super::compat::{Compare, names_match};
use super::{RelocKind, Subject};
use crate::btf::{Btf, Type, TypeId};
use crate::error::CoReError;

/// Longest path.
const PATH_MAX: usize = 64;

/// One step of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// An element of an array (or of the pointer that the path starts at).
    Element { type_id: TypeId, index: u64 },
    /// A named member of a struct or union.
    Member { of: TypeId, index: usize },
    /// A value of an enum.
    Value { of: TypeId, index: usize },
}

impl Access {
    pub(super) const fn type_id(self) -> TypeId {
        match self {
            Self::Element { type_id, .. } => type_id,
            Self::Member { of, .. } | Self::Value { of, .. } => of,
        }
    }
}

/// A path into a type.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) root: TypeId,
    text: String,
    /// Steps with meaning; anonymous members only add to the offset.
    pub(super) path: Vec<Access>,
    pub(super) bit_offset: u64,
}

impl Spec {
    /// The error for a path that does not fit its type.
    pub(super) fn misfit(&self) -> CoReError {
        CoReError::Access {
            access: self.text.clone(),
            type_id: self.root,
        }
    }

    /// Parses a path such as `0:1:2`.
    pub(super) fn parse(
        btf: &Btf,
        subject: Subject,
        root: TypeId,
        text: &str,
    ) -> Result<Self, CoReError> {
        let mut spec = Self {
            root,
            text: text.to_owned(),
            path: Vec::new(),
            bit_offset: 0,
        };
        let mut steps = Vec::new();
        for step in text.split(':').take(PATH_MAX.saturating_add(1)) {
            match step.parse::<u32>() {
                Ok(step) => steps.push(step),
                Err(_not_a_number) => return Err(spec.misfit()),
            }
        }
        let Some((first, rest)) = steps.split_first() else {
            return Err(spec.misfit());
        };
        if steps.len() > PATH_MAX {
            return Err(spec.misfit());
        }
        match subject {
            Subject::Type if steps == [0] => Ok(spec),
            Subject::EnumValue if rest.is_empty() => {
                let of = btf.resolve(root)?;
                let index = usize::try_from(*first).unwrap_or(usize::MAX);
                match btf.get(of) {
                    Type::Enum(e) if index < e.values.len() => {
                        spec.path.push(Access::Value { of, index });
                        Ok(spec)
                    }
                    _ => Err(spec.misfit()),
                }
            }
            Subject::Type | Subject::EnumValue => Err(spec.misfit()),
            Subject::Field => {
                spec.fields(btf, u64::from(*first), rest)?;
                Ok(spec)
            }
        }
    }

    /// The path in C: `.scx.slice`, `[3].x`, `::SCX_ENQ_WAKEUP`.
    pub(super) fn path_text(&self, btf: &Btf) -> String {
        let mut text = String::new();
        for (step, access) in self.path.iter().enumerate() {
            match *access {
                // The step over the starting pointer is usually 0 and tells nothing.
                Access::Element { index: 0, .. } if step == 0 => {}
                Access::Element { index, .. } => text.push_str(&format!("[{index}]")),
                Access::Member { of, index } => {
                    let composite = btf.get(of).composite();
                    if let Some(member) = composite.and_then(|c| c.members.get(index)) {
                        text.push('.');
                        text.push_str(btf.str(member.name));
                    }
                }
                Access::Value { of, index } => {
                    if let Type::Enum(e) = btf.get(of)
                        && let Some(value) = e.values.get(index)
                    {
                        text.push_str("::");
                        text.push_str(btf.str(value.name));
                    }
                }
            }
        }
        text
    }

    fn fields(&mut self, btf: &Btf, first: u64, rest: &[u32]) -> Result<(), CoReError> {
        let mut at = btf.resolve(self.root)?;
        self.element(btf, at, first)?;
        for step in rest {
            at = btf.resolve(at)?;
            match btf.get(at) {
                Type::Struct(c) | Type::Union(c) => {
                    let index = usize::try_from(*step).unwrap_or(usize::MAX);
                    let member = c.members.get(index).ok_or_else(|| self.misfit())?;
                    self.bit_offset = self.bit_offset.saturating_add(u64::from(member.bit_offset));
                    if !btf.str(member.name).is_empty() {
                        self.path.push(Access::Member { of: at, index });
                    }
                    at = member.type_id;
                }
                Type::Array { element, len, .. } => {
                    let index = u64::from(*step);
                    if index >= u64::from(*len) && !self.ends_in_flexible_array(btf, *len) {
                        return Err(self.misfit());
                    }
                    at = btf.resolve(*element)?;
                    self.element(btf, at, index)?;
                }
                _ => return Err(self.misfit()),
            }
        }
        Ok(())
    }

    fn element(&mut self, btf: &Btf, type_id: TypeId, index: u64) -> Result<(), CoReError> {
        if index > 0 {
            let bits = btf.size_of(type_id)?.checked_mul(8);
            let bits = bits.and_then(|bits| bits.checked_mul(index));
            let bits = bits.and_then(|bits| self.bit_offset.checked_add(bits));
            self.bit_offset = bits.ok_or_else(|| self.misfit())?;
        }
        self.path.push(Access::Element { type_id, index });
        Ok(())
    }

    /// Whether an array of this length, reached by the last step, has no fixed end: it
    /// is the last member of its struct and short (`data[]`, or the old `data[1]`).
    fn ends_in_flexible_array(&self, btf: &Btf, len: u32) -> bool {
        let Some(Access::Member { of, index }) = self.path.last() else {
            return false;
        };
        let composite = btf.get(*of).composite();
        len <= 1 && composite.is_some_and(|c| index.saturating_add(1) == c.members.len())
    }

    /// The enum value at the end of the path.
    pub(super) fn enum_value(&self, btf: &Btf) -> Option<u64> {
        let Access::Value { of, index } = *self.path.last()? else {
            return None;
        };
        match btf.get(of) {
            Type::Enum(e) => e.values.get(index).map(|value| value.value),
            _ => None,
        }
    }
}

/// What `local` names, in the kernel's type `candidate`; `None` if there is no such thing.
pub(super) fn find(
    compare: &mut Compare<'_>,
    kind: RelocKind,
    local: &Spec,
    candidate: TypeId,
) -> Result<Option<Spec>, CoReError> {
    let mut found = Spec {
        root: candidate,
        text: local.text.clone(),
        path: Vec::new(),
        bit_offset: 0,
    };
    let exists = match kind.subject() {
        Subject::Type if kind == RelocKind::TypeMatches => {
            compare.types_match(local.root, candidate)?
        }
        Subject::Type => compare.types_are_compatible(local.root, candidate)?,
        Subject::EnumValue => find_value(compare, local, &mut found)?,
        Subject::Field => find_field(compare, local, &mut found)?,
    };
    Ok(exists.then_some(found))
}

fn find_value(
    compare: &mut Compare<'_>,
    local: &Spec,
    found: &mut Spec,
) -> Result<bool, CoReError> {
    let of = compare.kernel.resolve(found.root)?;
    let Some(Access::Value { of: ours, index }) = local.path.last() else {
        return Ok(false);
    };
    let (Type::Enum(wanted), Type::Enum(known)) =
        (compare.local.get(*ours), compare.kernel.get(of))
    else {
        return Ok(false);
    };
    let Some(wanted) = wanted.values.get(*index) else {
        return Ok(false);
    };
    let wanted = compare.local.str(wanted.name);
    for (index, value) in known.values.iter().enumerate() {
        compare.step()?;
        if names_match(wanted, compare.kernel.str(value.name)) {
            found.path.push(Access::Value { of, index });
            return Ok(true);
        }
    }
    Ok(false)
}

fn find_field(
    compare: &mut Compare<'_>,
    local: &Spec,
    found: &mut Spec,
) -> Result<bool, CoReError> {
    let kernel = compare.kernel;
    let mut at = found.root;
    for (step, access) in local.path.iter().enumerate() {
        match *access {
            Access::Member { of, index } => {
                let Some(next) = find_member(compare, (of, index), at, found, 32)? else {
                    return Ok(false);
                };
                at = next;
            }
            Access::Element { index, .. } => {
                at = kernel.resolve(at)?;
                // The first step is over the pointer that the path starts at.
                if step > 0 {
                    let Type::Array { element, len, .. } = kernel.get(at) else {
                        return Ok(false);
                    };
                    let is_open = found.ends_in_flexible_array(kernel, *len);
                    if index >= u64::from(*len) && !is_open {
                        return Ok(false);
                    }
                    at = kernel.resolve(*element)?;
                }
                found.element(kernel, at, index)?;
            }
            Access::Value { .. } => return Ok(false),
        }
    }
    Ok(true)
}

/// Finds a member by name, also inside anonymous members; gives its type.
fn find_member(
    compare: &mut Compare<'_>,
    wanted_at: (TypeId, usize),
    within: TypeId,
    found: &mut Spec,
    depth: u32,
) -> Result<Option<TypeId>, CoReError> {
    let kernel = compare.kernel;
    let depth = depth.checked_sub(1).ok_or(CoReError::TooDeep)?;
    let within = kernel.resolve(within)?;
    let (of, wanted_index) = wanted_at;
    let local = compare.local.get(of).composite();
    let wanted = local.and_then(|local| local.members.get(wanted_index));
    let (Some(wanted), Some(composite)) = (wanted, kernel.get(within).composite()) else {
        return Ok(None);
    };
    for (index, member) in composite.members.iter().enumerate() {
        compare.step()?;
        let before = found.bit_offset;
        found.bit_offset = before.saturating_add(u64::from(member.bit_offset));
        let name = kernel.str(member.name);
        if name.is_empty() {
            let inner = find_member(compare, wanted_at, member.type_id, found, depth)?;
            if inner.is_some() {
                return Ok(inner);
            }
        } else if name == compare.local.str(wanted.name) {
            if !compare.fields_are_compatible(wanted.type_id, member.type_id)? {
                return Ok(None);
            }
            found.path.push(Access::Member { of: within, index });
            return Ok(Some(member.type_id));
        }
        found.bit_offset = before;
    }
    Ok(None)
}
