//! Are two types, one of an object and one of a kernel, alike enough?
//!
//! Three answers of rising strictness, as in libbpf: *fields* compatible (a load of one
//! can be made a load of the other), *types* compatible (same shape; used for kfunc
//! prototypes, too), types *matching* (same members as far as the object knows them).

use crate::btf::{Btf, Composite, Enum, IntEncoding, Kind, Param, Type, TypeId, strip_flavor};
use crate::error::CoReError;

/// Levels of types that are compared, as in libbpf.
const DEPTH_MAX: u32 = 32;
/// Comparisons of one relocation.
const STEPS_MAX: u32 = 1 << 18;

/// Whether names are equal up to their flavours.
pub(super) fn names_match(local: &str, kernel: &str) -> bool {
    strip_flavor(local) == strip_flavor(kernel)
}

/// Whether the types are compatible: the rule for `FuncProto`s of kfuncs.
pub(crate) fn types_are_compatible(
    local: &Btf,
    local_id: TypeId,
    kernel: &Btf,
    kernel_id: TypeId,
) -> Result<bool, CoReError> {
    Compare::new(local, kernel, STEPS_MAX).types_are_compatible(local_id, kernel_id)
}

const fn is_union(ty: &Type) -> bool {
    matches!(ty, Type::Union(_) | Type::Fwd { is_union: true, .. })
}

/// Where a type stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behind {
    Pointer,
    Nothing,
}

/// Compares types with a budget.
#[derive(Debug)]
pub(super) struct Compare<'a> {
    pub(super) local: &'a Btf,
    pub(super) kernel: &'a Btf,
    steps_max: u32,
    steps_left: u32,
}

impl<'a> Compare<'a> {
    /// Comparisons with at most `limit` steps, and never more than one relocation may take.
    pub(super) fn new(local: &'a Btf, kernel: &'a Btf, limit: u32) -> Self {
        let steps_max = limit.min(STEPS_MAX);
        Self {
            local,
            kernel,
            steps_max,
            steps_left: steps_max,
        }
    }

    /// Steps taken so far.
    pub(super) const fn steps(&self) -> u32 {
        self.steps_max.saturating_sub(self.steps_left)
    }

    /// Takes a step of the budget.
    pub(super) fn step(&mut self) -> Result<(), CoReError> {
        self.steps_left = self.steps_left.checked_sub(1).ok_or(CoReError::TooDeep)?;
        Ok(())
    }

    fn pair(&mut self, local: TypeId, kernel: TypeId) -> Result<(&'a Type, &'a Type), CoReError> {
        self.step()?;
        let local = self.local.get(self.local.resolve(local)?);
        let kernel = self.kernel.get(self.kernel.resolve(kernel)?);
        Ok((local, kernel))
    }

    /// Whether a field of one type can be read as the other.
    pub(super) fn fields_are_compatible(
        &mut self,
        local: TypeId,
        kernel: TypeId,
    ) -> Result<bool, CoReError> {
        let (mut local, mut kernel) = (local, kernel);
        for _ in 0..DEPTH_MAX {
            let (ours, theirs) = self.pair(local, kernel)?;
            if ours.composite().is_some() && theirs.composite().is_some() {
                return Ok(true);
            }
            return Ok(match (ours, theirs) {
                (Type::Ptr { .. }, Type::Ptr { .. }) | (Type::Float { .. }, Type::Float { .. }) => {
                    true
                }
                (Type::Fwd { .. }, Type::Fwd { .. }) | (Type::Enum(_), Type::Enum(_)) => {
                    let ours = self.local.str(ours.name());
                    let theirs = self.kernel.str(theirs.name());
                    // One without a name can be any.
                    ours.is_empty() || theirs.is_empty() || names_match(ours, theirs)
                }
                (
                    Type::Int { bit_offset, .. },
                    Type::Int {
                        bit_offset: theirs, ..
                    },
                ) => *bit_offset == 0 && *theirs == 0,
                (
                    Type::Array { element, .. },
                    Type::Array {
                        element: theirs, ..
                    },
                ) => {
                    (local, kernel) = (*element, *theirs);
                    continue;
                }
                _ => false,
            });
        }
        Err(CoReError::TooDeep)
    }

    /// Whether types have the same shape.
    pub(super) fn types_are_compatible(
        &mut self,
        local: TypeId,
        kernel: TypeId,
    ) -> Result<bool, CoReError> {
        self.compatible(local, kernel, DEPTH_MAX)
    }

    fn compatible(&mut self, local: TypeId, kernel: TypeId, depth: u32) -> Result<bool, CoReError> {
        let depth = depth.checked_sub(1).ok_or(CoReError::TooDeep)?;
        let (ours, theirs) = self.pair(local, kernel)?;
        let is_composite = |kind| matches!(kind, Kind::Struct | Kind::Union | Kind::Fwd);
        // Other than in libbpf a declaration stands for its definition: a kernel that is
        // modelled only in part must be free to declare what it does not model.
        if is_composite(ours.kind()) && is_composite(theirs.kind()) {
            return Ok(is_union(ours) == is_union(theirs));
        }
        if ours.kind() != theirs.kind() {
            return Ok(false);
        }
        match (ours, theirs) {
            (Type::Void | Type::Enum(_), _) => Ok(true),
            (
                Type::Int { bit_offset, .. },
                Type::Int {
                    bit_offset: theirs, ..
                },
            ) => Ok(*bit_offset == 0 && *theirs == 0),
            (Type::Ptr { target }, Type::Ptr { target: theirs }) => {
                self.compatible(*target, *theirs, depth)
            }
            (
                Type::Array { element, .. },
                Type::Array {
                    element: theirs, ..
                },
            ) => self.compatible(*element, *theirs, depth),
            (
                Type::FuncProto { ret, params },
                Type::FuncProto {
                    ret: their_ret,
                    params: theirs,
                },
            ) => {
                if params.len() != theirs.len() {
                    return Ok(false);
                }
                for (param, their_param) in params.iter().zip(theirs) {
                    if !self.compatible(param.type_id, their_param.type_id, depth)? {
                        return Ok(false);
                    }
                }
                self.compatible(*ret, *their_ret, depth)
            }
            _ => Ok(false),
        }
    }

    /// Whether the kernel's type has all that the object knows of it.
    pub(super) fn types_match(&mut self, local: TypeId, kernel: TypeId) -> Result<bool, CoReError> {
        self.matches(local, kernel, Behind::Nothing, DEPTH_MAX)
    }

    fn matches(
        &mut self,
        local: TypeId,
        kernel: TypeId,
        behind: Behind,
        depth: u32,
    ) -> Result<bool, CoReError> {
        let depth = depth.checked_sub(1).ok_or(CoReError::TooDeep)?;
        let (ours, theirs) = self.pair(local, kernel)?;
        let our_name = self.local.str(ours.name());
        let their_name = self.kernel.str(theirs.name());
        if !names_match(our_name, their_name) {
            return Ok(false);
        }
        match (ours, theirs) {
            (Type::Void, Type::Void) => Ok(true),
            (
                Type::Fwd { is_union, .. },
                Type::Fwd {
                    is_union: theirs, ..
                },
            ) => Ok(is_union == theirs),
            // Behind a pointer a declaration stands for its definition, both ways.
            (Type::Fwd { is_union, .. }, Type::Struct(_) | Type::Union(_)) => {
                let is_theirs = theirs.kind() == Kind::Union;
                Ok(behind == Behind::Pointer && *is_union == is_theirs)
            }
            (Type::Struct(_) | Type::Union(_), Type::Fwd { is_union, .. }) => {
                let is_ours = ours.kind() == Kind::Union;
                Ok(behind == Behind::Pointer && *is_union == is_ours)
            }
            (Type::Enum(ours), Type::Enum(theirs)) => self.enums_match(ours, theirs),
            (Type::Struct(ours), Type::Struct(theirs))
            | (Type::Union(ours), Type::Union(theirs)) => {
                // What a pointer points to need only have the same name.
                if behind == Behind::Pointer {
                    Ok(true)
                } else {
                    self.members_match(ours, theirs, depth)
                }
            }
            (
                Type::Int { size, encoding, .. },
                Type::Int {
                    size: their_size,
                    encoding: their_encoding,
                    ..
                },
            ) => {
                let is_signed = |encoding| encoding == IntEncoding::Signed;
                Ok(size == their_size && is_signed(*encoding) == is_signed(*their_encoding))
            }
            (Type::Ptr { target }, Type::Ptr { target: theirs }) => {
                self.matches(*target, *theirs, Behind::Pointer, depth)
            }
            (
                Type::Array { element, len, .. },
                Type::Array {
                    element: their_element,
                    len: their_len,
                    ..
                },
            ) => Ok(len == their_len && self.matches(*element, *their_element, behind, depth)?),
            (
                Type::FuncProto { ret, params },
                Type::FuncProto {
                    ret: their_ret,
                    params: theirs,
                },
            ) => Ok(self.params_match(params, theirs, depth)?
                && self.matches(*ret, *their_ret, Behind::Nothing, depth)?),
            _ => Ok(false),
        }
    }

    fn params_match(
        &mut self,
        ours: &[Param],
        theirs: &[Param],
        depth: u32,
    ) -> Result<bool, CoReError> {
        for (our, their) in ours.iter().zip(theirs) {
            if !self.matches(our.type_id, their.type_id, Behind::Nothing, depth)? {
                return Ok(false);
            }
        }
        Ok(ours.len() == theirs.len())
    }

    /// All values that the object knows exist, whatever their numbers.
    fn enums_match(&mut self, ours: &Enum, theirs: &Enum) -> Result<bool, CoReError> {
        if ours.size != theirs.size || ours.values.len() > theirs.values.len() {
            return Ok(false);
        }
        for value in &ours.values {
            let name = self.local.str(value.name);
            let mut is_known = false;
            for known in &theirs.values {
                self.step()?;
                if names_match(name, self.kernel.str(known.name)) {
                    is_known = true;
                    break;
                }
            }
            if !is_known {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// All members that the object knows exist and match.
    fn members_match(
        &mut self,
        ours: &Composite,
        theirs: &Composite,
        depth: u32,
    ) -> Result<bool, CoReError> {
        if ours.members.len() > theirs.members.len() {
            return Ok(false);
        }
        for member in &ours.members {
            let name = self.local.str(member.name);
            let mut has_match = false;
            for known in &theirs.members {
                self.step()?;
                if names_match(name, self.kernel.str(known.name))
                    && self.matches(member.type_id, known.type_id, Behind::Nothing, depth)?
                {
                    has_match = true;
                    break;
                }
            }
            if !has_match {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
