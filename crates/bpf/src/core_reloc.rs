//! CO-RE: making code that was compiled against one kernel's types fit another's.
//!
//! A relocation names a local type, a path into it and a question (13 kinds). The
//! answer is looked up in every kernel type of the same essential name; all that
//! match must agree. A question about something that the kernel does not have is
//! answered 0 if it asks for existence; otherwise its instruction is *poisoned*:
//! replaced by a call that cannot be executed, so that branches guarded by existence
//! checks stay loadable. Mirrors libbpf's `relo_core.c`.
//!
//! Local types come from a file that may lie: recursion is bounded in depth and all
//! comparisons of one relocation share a budget of steps.

mod compat;
mod patch;
mod spec;
#[cfg(test)]
mod tests;

pub(crate) use compat::types_are_compatible;
pub(crate) use patch::{Patched, patch};

use crate::btf::{Btf, IntEncoding, Kind, Type, TypeId, strip_flavor};
use crate::error::CoReError;
use compat::Compare;
use spec::{Access, Spec};
use std::collections::BTreeMap;

/// Comparisons that all relocations of an object may take; real ones take thousands.
const OBJECT_STEPS_MAX: u32 = 1 << 26;

/// What a relocation asks, with the kernel's numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum RelocKind {
    FieldByteOffset,
    FieldByteSize,
    FieldExists,
    FieldSigned,
    FieldLshiftU64,
    FieldRshiftU64,
    TypeIdLocal,
    TypeIdTarget,
    TypeExists,
    TypeSize,
    EnumvalExists,
    EnumvalValue,
    TypeMatches,
}

impl RelocKind {
    pub(crate) const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::FieldByteOffset,
            1 => Self::FieldByteSize,
            2 => Self::FieldExists,
            3 => Self::FieldSigned,
            4 => Self::FieldLshiftU64,
            5 => Self::FieldRshiftU64,
            6 => Self::TypeIdLocal,
            7 => Self::TypeIdTarget,
            8 => Self::TypeExists,
            9 => Self::TypeSize,
            10 => Self::EnumvalExists,
            11 => Self::EnumvalValue,
            12 => Self::TypeMatches,
            _ => return None,
        })
    }

    const fn subject(self) -> Subject {
        match self {
            Self::FieldByteOffset
            | Self::FieldByteSize
            | Self::FieldExists
            | Self::FieldSigned
            | Self::FieldLshiftU64
            | Self::FieldRshiftU64 => Subject::Field,
            Self::TypeIdLocal
            | Self::TypeIdTarget
            | Self::TypeExists
            | Self::TypeSize
            | Self::TypeMatches => Subject::Type,
            Self::EnumvalExists | Self::EnumvalValue => Subject::EnumValue,
        }
    }
}

/// What a relocation is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Subject {
    Field,
    Type,
    EnumValue,
}

/// The answer to a relocation: what the instruction should hold, and now holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    /// What the compiler put there.
    pub(crate) local: u64,
    /// What belongs there; `None` poisons.
    pub(crate) target: Option<u64>,
    /// Whether the instruction must hold `local` before.
    pub(crate) validate: bool,
    pub(crate) access: AccessSize,
}

/// What a relocation does to the size of a load or store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AccessSize {
    /// Nothing.
    Keep,
    /// From these bytes to those.
    Change { from: u64, to: u64 },
    /// The sizes differ and no other load would read the same value.
    Unfit,
}

/// A field's size and type, which decide whether a load may be resized.
#[derive(Clone, Copy)]
struct Shape {
    size: u64,
    type_id: TypeId,
}

/// Value of one side of a relocation.
struct Side {
    value: u64,
    validate: bool,
    shape: Option<Shape>,
}

/// Answers relocations of one object against one kernel.
#[derive(Debug)]
pub(crate) struct Relocator<'a> {
    local: &'a Btf,
    kernel: &'a Btf,
    candidates: BTreeMap<TypeId, Vec<TypeId>>,
    /// Comparisons left for all relocations together.
    steps_left: u32,
}

impl<'a> Relocator<'a> {
    pub(crate) const fn new(local: &'a Btf, kernel: &'a Btf) -> Self {
        Self {
            local,
            kernel,
            candidates: BTreeMap::new(),
            steps_left: OBJECT_STEPS_MAX,
        }
    }

    /// Answers one relocation.
    pub(crate) fn answer(
        &mut self,
        kind: RelocKind,
        root: TypeId,
        access: &str,
    ) -> Result<Answer, CoReError> {
        if kind == RelocKind::TypeIdLocal {
            let id = u64::from(root.raw());
            return Ok(Answer {
                local: id,
                target: Some(id),
                // Linkers renumber types without touching instructions.
                validate: false,
                access: AccessSize::Keep,
            });
        }
        let spec = Spec::parse(self.local, kind.subject(), root, access)?;
        let local = self.side(self.local, kind, Some(&spec))?.unwrap_or(Side {
            value: 0,
            validate: false,
            shape: None,
        });
        let mut compare = Compare::new(self.local, self.kernel, self.steps_left);
        let answer = self.choose(kind, root, &spec, &local, &mut compare);
        self.steps_left = self.steps_left.saturating_sub(compare.steps());
        answer
    }

    /// The answer on which all candidates that match agree.
    fn choose(
        &mut self,
        kind: RelocKind,
        root: TypeId,
        spec: &Spec,
        local: &Side,
        compare: &mut Compare<'a>,
    ) -> Result<Answer, CoReError> {
        let mut chosen: Option<(TypeId, Spec, Answer)> = None;
        for candidate in self.candidates(root) {
            let Some(target) = spec::find(compare, kind, spec, candidate)? else {
                continue;
            };
            let answer = self.compare_sides(kind, local, Some(&target))?;
            match &chosen {
                None => chosen = Some((candidate, target, answer)),
                Some((first, earlier, said)) => {
                    if earlier.bit_offset != target.bit_offset || *said != answer {
                        return Err(CoReError::Ambiguous {
                            first: *first,
                            second: candidate,
                        });
                    }
                }
            }
        }
        match chosen {
            Some((_, _, answer)) => Ok(answer),
            None => self.compare_sides(kind, local, None),
        }
    }

    /// What a relocation is about, for messages: `struct task_struct.scx.slice (offset)`.
    pub(crate) fn describe(&self, kind: Option<RelocKind>, root: TypeId, access: &str) -> String {
        let Some(kind) = kind else {
            return format!("{} {access}", self.local.c_type(root));
        };
        let mut text = self.local.c_type(root);
        if let Ok(spec) = Spec::parse(self.local, kind.subject(), root, access) {
            text.push_str(&spec.path_text(self.local));
        }
        let question = match kind {
            RelocKind::FieldByteOffset => "offset",
            RelocKind::FieldByteSize | RelocKind::TypeSize => "size",
            RelocKind::FieldExists | RelocKind::TypeExists | RelocKind::EnumvalExists => {
                "existence"
            }
            RelocKind::FieldSigned => "sign",
            RelocKind::FieldLshiftU64 | RelocKind::FieldRshiftU64 => "bits",
            RelocKind::TypeIdLocal | RelocKind::TypeIdTarget => "type id",
            RelocKind::EnumvalValue => "value",
            RelocKind::TypeMatches => "match",
        };
        format!("`{text}` ({question})")
    }

    /// Kernel types that `root` may stand for.
    fn candidates(&mut self, root: TypeId) -> Vec<TypeId> {
        if let Some(known) = self.candidates.get(&root) {
            return known.clone();
        }
        let name = strip_flavor(self.local.name_of(root));
        let kind = self.local.get(root).kind();
        let flavored = format!("{name}___");
        let fits = |id: &TypeId| self.kernel.get(*id).kind() == kind;
        let mut found = Vec::new();
        if !name.is_empty() {
            found.extend(self.kernel.named(name).filter(fits));
            let flavors = self.kernel.with_prefix(&flavored);
            let flavors = flavors.filter(|id| strip_flavor(self.kernel.name_of(*id)) == name);
            found.extend(flavors.filter(fits));
        }
        self.candidates.insert(root, found.clone());
        found
    }

    fn compare_sides(
        &self,
        kind: RelocKind,
        local: &Side,
        target: Option<&Spec>,
    ) -> Result<Answer, CoReError> {
        let side = self.side(self.kernel, kind, target)?;
        let shapes = local.shape.zip(side.as_ref().and_then(|side| side.shape));
        let access = match shapes {
            Some((from, to)) if from.size != to.size => self.resize(from, to)?,
            _ => AccessSize::Keep,
        };
        Ok(Answer {
            local: local.value,
            target: side.map(|side| side.value),
            validate: local.validate,
            access,
        })
    }

    /// Whether a load of `from` may become a load of `to`: pointers, and unsigned integers.
    fn resize(&self, from: Shape, to: Shape) -> Result<AccessSize, CoReError> {
        let local = self.local.get(self.local.resolve(from.type_id)?);
        let kernel = self.kernel.get(self.kernel.resolve(to.type_id)?);
        let is_unsigned = |ty: &Type| matches!(ty, Type::Int { encoding, .. } if *encoding != IntEncoding::Signed);
        let are_pointers = local.kind() == Kind::Ptr && kernel.kind() == Kind::Ptr;
        if are_pointers || (is_unsigned(local) && is_unsigned(kernel)) {
            Ok(AccessSize::Change {
                from: from.size,
                to: to.size,
            })
        } else {
            Ok(AccessSize::Unfit)
        }
    }

    /// The value of one side; `None` if there is no such thing and that poisons.
    fn side(
        &self,
        btf: &Btf,
        kind: RelocKind,
        spec: Option<&Spec>,
    ) -> Result<Option<Side>, CoReError> {
        let plain = |value| Side {
            value,
            validate: true,
            shape: None,
        };
        let exists = u64::from(spec.is_some());
        Ok(match (kind, spec) {
            (
                RelocKind::FieldExists
                | RelocKind::TypeExists
                | RelocKind::TypeMatches
                | RelocKind::EnumvalExists,
                _,
            ) => Some(plain(exists)),
            // Types that are not there are 0, fields and values that are not there poison.
            (RelocKind::TypeSize | RelocKind::TypeIdTarget, None) => Some(plain(0)),
            (RelocKind::TypeSize, Some(spec)) => Some(plain(btf.size_of(spec.root)?)),
            (RelocKind::TypeIdTarget | RelocKind::TypeIdLocal, Some(spec)) => Some(Side {
                validate: false,
                ..plain(u64::from(spec.root.raw()))
            }),
            (RelocKind::EnumvalValue, Some(spec)) => spec.enum_value(btf).map(plain),
            (_, None) => None,
            (
                RelocKind::FieldByteOffset
                | RelocKind::FieldByteSize
                | RelocKind::FieldSigned
                | RelocKind::FieldLshiftU64
                | RelocKind::FieldRshiftU64,
                Some(spec),
            ) => Some(field_side(btf, kind, spec)?),
        })
    }
}

/// Value of a relocation about a field that exists.
fn field_side(btf: &Btf, kind: RelocKind, spec: &Spec) -> Result<Side, CoReError> {
    let Some(last) = spec.path.last() else {
        return Err(spec.misfit());
    };
    let Access::Member { of, index } = *last else {
        return element_side(btf, kind, spec, last.type_id());
    };
    let composite = btf.get(of).composite();
    let member = composite.and_then(|c| c.members.get(index));
    let member = member.ok_or_else(|| spec.misfit())?;
    let type_id = btf.resolve(member.type_id)?;
    let size = btf.size_of(type_id)?;
    let at = spec.bit_offset;
    let (byte_offset, byte_size, bits) = match member.bit_size {
        Some(bits) => {
            let (offset, size) = bitfield_word(at, u64::from(bits), size)?;
            (offset, size, u64::from(bits))
        }
        None => (at / 8, size, size.saturating_mul(8)),
    };
    let is_bitfield = member.bit_size.is_some();
    // Loads of bitfields may be of any size that holds them, so only the sign and the
    // right shift are certain.
    let side = |value, validate| Side {
        value,
        validate,
        shape: None,
    };
    let into_word = at.saturating_sub(byte_offset.saturating_mul(8));
    Ok(match kind {
        RelocKind::FieldByteOffset => Side {
            value: byte_offset,
            validate: !is_bitfield,
            shape: (!is_bitfield).then_some(Shape { size, type_id }),
        },
        RelocKind::FieldByteSize => side(byte_size, !is_bitfield),
        RelocKind::FieldSigned => {
            let signed = match btf.get(type_id) {
                Type::Enum(e) => e.signed,
                Type::Int { encoding, .. } => *encoding == IntEncoding::Signed,
                _ => false,
            };
            side(u64::from(signed), true)
        }
        RelocKind::FieldLshiftU64 => {
            side(64u64.saturating_sub(bits.saturating_add(into_word)), false)
        }
        _ => side(64u64.saturating_sub(bits), true),
    })
}

/// An element of an array is a field without a name: only its place and size can be asked.
fn element_side(
    btf: &Btf,
    kind: RelocKind,
    spec: &Spec,
    type_id: TypeId,
) -> Result<Side, CoReError> {
    let size = btf.size_of(type_id)?;
    match kind {
        RelocKind::FieldByteOffset => Ok(Side {
            value: spec.bit_offset / 8,
            validate: true,
            shape: Some(Shape { size, type_id }),
        }),
        RelocKind::FieldByteSize => Ok(Side {
            value: size,
            validate: true,
            shape: None,
        }),
        _ => Err(spec.misfit()),
    }
}

/// Offset and size of the smallest aligned word that holds a bitfield.
fn bitfield_word(bit_offset: u64, bits: u64, declared: u64) -> Result<(u64, u64), CoReError> {
    let mut size = declared.max(1);
    loop {
        let start = (bit_offset / 8)
            .checked_div(size)
            .unwrap_or(0)
            .saturating_mul(size);
        let end_bits = bit_offset.saturating_add(bits);
        let into_word = end_bits.saturating_sub(start.saturating_mul(8));
        if into_word <= size.saturating_mul(8) {
            return Ok((start, size));
        }
        if size >= 8 {
            return Err(CoReError::WideBitfield);
        }
        size = size.saturating_mul(2);
    }
}
