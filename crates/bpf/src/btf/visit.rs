//! Names and ids in types, one after the other, to read or to change.

use super::{Name, Type, TypeId};

/// Calls `each` with every name of a type.
pub(super) fn rename(ty: &mut Type, each: &mut dyn FnMut(&mut Name)) {
    match ty {
        Type::Int { name, .. }
        | Type::Fwd { name, .. }
        | Type::Typedef { name, .. }
        | Type::Func { name, .. }
        | Type::Var { name, .. }
        | Type::DataSec { name, .. }
        | Type::Float { name, .. }
        | Type::DeclTag { name, .. }
        | Type::TypeTag { name, .. } => each(name),
        Type::Struct(composite) | Type::Union(composite) => {
            each(&mut composite.name);
            for member in &mut composite.members {
                each(&mut member.name);
            }
        }
        Type::Enum(e) => {
            each(&mut e.name);
            for value in &mut e.values {
                each(&mut value.name);
            }
        }
        Type::FuncProto { params, .. } => {
            for param in params {
                each(&mut param.name);
            }
        }
        Type::Void
        | Type::Ptr { .. }
        | Type::Array { .. }
        | Type::Volatile { .. }
        | Type::Const { .. }
        | Type::Restrict { .. } => {}
    }
}

/// Calls `each` with every id in a type, always in the same order.
pub(super) fn refer(ty: &mut Type, each: &mut dyn FnMut(&mut TypeId)) {
    match ty {
        Type::Ptr { target }
        | Type::Typedef { target, .. }
        | Type::Volatile { target }
        | Type::Const { target }
        | Type::Restrict { target }
        | Type::DeclTag { target, .. }
        | Type::TypeTag { target, .. } => each(target),
        Type::Func { proto, .. } => each(proto),
        Type::Var { type_id, .. } => each(type_id),
        Type::Array { element, index, .. } => {
            each(element);
            each(index);
        }
        Type::Struct(composite) | Type::Union(composite) => {
            for member in &mut composite.members {
                each(&mut member.type_id);
            }
        }
        Type::FuncProto { ret, params } => {
            each(ret);
            for param in params {
                each(&mut param.type_id);
            }
        }
        Type::DataSec { vars, .. } => {
            for var in vars {
                each(&mut var.type_id);
            }
        }
        Type::Void | Type::Int { .. } | Type::Enum(_) | Type::Fwd { .. } | Type::Float { .. } => {}
    }
}

/// The first type that mentions an id past the end, and that id. Changes nothing.
pub(super) fn dangling(types: &mut [Type]) -> Option<(TypeId, TypeId)> {
    let count = types.len();
    (0..).map(TypeId).zip(types).find_map(|(id, ty)| {
        let mut missing = None;
        refer(ty, &mut |other| {
            if usize::try_from(other.raw()).is_ok_and(|raw| raw >= count) {
                missing = missing.or(Some(*other));
            }
        });
        missing.map(|missing| (id, missing))
    })
}
