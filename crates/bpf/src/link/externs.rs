//! Externs against a kernel: configuration values, kfuncs, variables.
//!
//! Each is looked up when code that is loaded first refers to it, so a missing one that
//! nothing reaches does no harm. Weak ones that are missing read as 0, and calls of them
//! are poisoned. A kfunc whose prototype differs counts as missing if it is weak: that
//! is how objects carry several versions of one call (`…___v1`, `…___v2`).

use crate::btf::{Btf, Type, TypeId, strip_flavor};
use crate::core_reloc::types_are_compatible;
use crate::error::InsnProblem;
use crate::isa::op::BPF_PSEUDO_MAP_VALUE;
use crate::kernel::{KFUNC_ADDRESS_BASE, KconfigValue, KernelSymbols};
use crate::linked::LinkedMap;
use crate::map::{MapIndex, MapOrigin};
use crate::object::{Extern, ExternKind, KconfigKind, Object};

/// What a call of an extern becomes.
#[derive(Clone, Debug)]
pub(super) enum CallTarget {
    /// A call of the kernel's function.
    Kfunc { name: String, id: u32 },
    /// Something that must not be executed.
    Missing { why: String },
}

/// The externs of an object and the kernel that provides them.
pub(super) struct Externs<'a> {
    object: &'a Object,
    kernel: &'a dyn KernelSymbols,
    kconfig_map: Option<MapIndex>,
    /// What is wrong with configuration values, by number of the extern.
    kconfig_problems: Vec<Option<InsnProblem>>,
}

impl<'a> Externs<'a> {
    /// Looks up all configuration values and puts them into their map.
    pub(super) fn new(
        object: &'a Object,
        kernel: &'a dyn KernelSymbols,
        maps: &mut [LinkedMap],
    ) -> Self {
        let at = maps.iter().position(|map| map.origin == MapOrigin::Kconfig);
        let mut problems = Vec::new();
        for one in &object.externs {
            let map = at.and_then(|at| maps.get_mut(at));
            let problem = map.and_then(|map| fill_kconfig(one, kernel, map).err());
            problems.push(problem);
        }
        Self {
            object,
            kernel,
            kconfig_map: at.and_then(|at| u32::try_from(at).ok()).map(MapIndex),
            kconfig_problems: problems,
        }
    }

    fn get(&self, number: usize) -> Result<&'a Extern, InsnProblem> {
        let missing = || InsnProblem::NoKsym {
            name: format!("#{number}"),
        };
        self.object.externs.get(number).ok_or_else(missing)
    }

    /// What a call of this extern becomes.
    pub(super) fn call(&self, number: usize) -> Result<CallTarget, InsnProblem> {
        let one = self.get(number)?;
        let ExternKind::Kfunc { proto } = one.kind else {
            return Err(InsnProblem::NoKfunc {
                name: one.name.clone(),
            });
        };
        match self.kfunc(one, proto) {
            Ok((name, id)) => Ok(CallTarget::Kfunc { name, id }),
            Err(problem) if one.weak => Ok(CallTarget::Missing {
                why: problem.to_string(),
            }),
            Err(problem) => Err(problem),
        }
    }

    /// `src` and immediates of a load of this extern's address.
    pub(super) fn load(&self, number: usize) -> Result<(u8, [i32; 2]), InsnProblem> {
        let one = self.get(number)?;
        let address = match one.kind {
            ExternKind::Kconfig { offset, .. } => {
                if let Some(Some(problem)) = self.kconfig_problems.get(number) {
                    return Err(problem.clone());
                }
                let map = self.kconfig_map.unwrap_or_default();
                let offset = u32::try_from(offset).unwrap_or(u32::MAX);
                let imms = [map.0.cast_signed(), offset.cast_signed()];
                return Ok((BPF_PSEUDO_MAP_VALUE, imms));
            }
            ExternKind::Kfunc { proto } => match self.kfunc(one, proto) {
                Ok((_, id)) => KFUNC_ADDRESS_BASE.saturating_add(u64::from(id)),
                Err(_missing) if one.weak => 0,
                Err(problem) => return Err(problem),
            },
            ExternKind::Ksym { type_id } => self.ksym(one, type_id)?,
        };
        let [first, second] = crate::isa::Insn::ldimm64(0, 0, address);
        Ok((0, [first.imm, second.imm]))
    }

    fn kfunc(&self, one: &Extern, proto: TypeId) -> Result<(String, u32), InsnProblem> {
        let name = strip_flavor(&one.name);
        let Some(found) = self.kernel.kfunc(name) else {
            let name = name.to_owned();
            return Err(InsnProblem::NoKfunc { name });
        };
        let kernel = self.kernel.btf();
        let found_proto = match kernel.get(found.proto) {
            Type::Func { proto, .. } => *proto,
            _ => found.proto,
        };
        let local = &self.object.btf;
        if types_are_compatible(local, proto, kernel, found_proto) == Ok(true) {
            return Ok((name.to_owned(), found.id));
        }
        Err(InsnProblem::KfuncPrototype {
            name: name.to_owned(),
            wanted: local.c_declaration(proto, name),
            found: kernel.c_declaration(found_proto, name),
        })
    }

    fn ksym(&self, one: &Extern, type_id: Option<TypeId>) -> Result<u64, InsnProblem> {
        let name = strip_flavor(&one.name);
        let Some(found) = self.kernel.ksym(name) else {
            let name = name.to_owned();
            return if one.weak {
                Ok(0)
            } else {
                Err(InsnProblem::NoKsym { name })
            };
        };
        let (Some(wanted), Some(known)) = (type_id, found.type_id) else {
            return Ok(found.addr);
        };
        let local: &Btf = &self.object.btf;
        let kernel = self.kernel.btf();
        if types_are_compatible(local, wanted, kernel, known) == Ok(true) {
            return Ok(found.addr);
        }
        Err(InsnProblem::KsymType {
            name: name.to_owned(),
            wanted: local.c_type(wanted),
            found: kernel.c_type(known),
        })
    }
}

fn fill_kconfig(
    one: &Extern,
    kernel: &dyn KernelSymbols,
    map: &mut LinkedMap,
) -> Result<(), InsnProblem> {
    let ExternKind::Kconfig { kind, size, offset } = one.kind else {
        return Ok(());
    };
    let bad = |cause: String| InsnProblem::Kconfig {
        name: one.name.clone(),
        cause,
    };
    let Some(value) = kernel.kconfig(&one.name) else {
        return if one.weak {
            Ok(())
        } else {
            Err(bad("this kernel does not say".to_owned()))
        };
    };
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let bytes = kconfig_bytes(kind, size, &value)
        .ok_or_else(|| bad(format!("{value:?} does not fit {size} bytes as {kind:?}")))?;
    let written = map.contents.put(offset, &bytes);
    written.ok_or_else(|| bad("does not lie in its map".to_owned()))
}

/// The bytes of a configuration value; `None` if it does not fit its variable.
fn kconfig_bytes(kind: KconfigKind, size: usize, value: &KconfigValue) -> Option<Vec<u8>> {
    let number = |value: u64| Some(value.to_le_bytes().get(..size)?.to_vec());
    match (kind, value) {
        (KconfigKind::Bool, KconfigValue::Yes) => number(1),
        (KconfigKind::Bool, KconfigValue::No) => number(0),
        (KconfigKind::Bool, KconfigValue::Number(flag @ 0..=1)) => number(*flag),
        (KconfigKind::Tristate, KconfigValue::No) => number(0),
        (KconfigKind::Tristate, KconfigValue::Yes) => number(1),
        (KconfigKind::Tristate, KconfigValue::Module) => number(2),
        (KconfigKind::Char, KconfigValue::Yes) => Some(vec![b'y']),
        (KconfigKind::Char, KconfigValue::Module) => Some(vec![b'm']),
        (KconfigKind::Char, KconfigValue::No) => Some(vec![b'n']),
        (KconfigKind::Char, KconfigValue::Number(value)) => Some(vec![u8::try_from(*value).ok()?]),
        (KconfigKind::Int { signed }, KconfigValue::Number(value)) => {
            let bits = u32::try_from(size).ok()?.checked_mul(8)?;
            let bits = bits.checked_sub(u32::from(signed))?;
            let fits = bits >= 64 || value.checked_shr(bits).unwrap_or(0) == 0;
            fits.then(|| number(*value))?
        }
        (KconfigKind::Int { .. }, KconfigValue::No) => number(0),
        (KconfigKind::Text, KconfigValue::Text(text)) => {
            // As in libbpf, a text that is too long is cut.
            let mut bytes = text.as_bytes().to_vec();
            bytes.truncate(size.checked_sub(1)?);
            bytes.push(0);
            Some(bytes)
        }
        (
            KconfigKind::Bool
            | KconfigKind::Tristate
            | KconfigKind::Char
            | KconfigKind::Int { .. }
            | KconfigKind::Text,
            _,
        ) => None,
    }
}
