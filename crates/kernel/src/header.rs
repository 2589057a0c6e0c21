//! The modelled types as a C header, from the same BTF that programs are linked against.

use harena_bpf::KernelSymbols;
use harena_bpf::btf::{Btf, Composite, Kind, Type};
use std::fmt::Write;

use crate::btf::Kernel;
use crate::types::structs;

const HEAD: &str = "\
#ifndef __VMLINUX_H__
#define __VMLINUX_H__

#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute push (__attribute__((preserve_access_index)), apply_to = record)
#endif

";

const TAIL: &str = "
#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute pop
#endif

#endif
";

/// The modelled types as `vmlinux.h`.
#[must_use]
pub fn vmlinux_h() -> String {
    let kernel = Kernel::new(1000);
    let btf = kernel.btf();
    let mut out = HEAD.to_owned();
    declare(btf, &mut out);
    for desc in structs() {
        if let Some(id) = btf.find(desc.name, Kind::Struct)
            && let Type::Struct(composite) = btf.get(id)
        {
            define(btf, desc.name, composite, &mut out);
        }
    }
    out.push_str(TAIL);
    out
}

/// Everything but the structs' definitions, which need it.
fn declare(btf: &Btf, out: &mut String) {
    let mut typedefs_of_structs = String::new();
    for id in btf.ids() {
        let name = btf.name_of(id);
        match btf.get(id) {
            Type::Struct(_) | Type::Fwd { .. } => line(out, &format!("struct {name};")),
            Type::Enum(e) => {
                line(out, &format!("\nenum {name} {{"));
                for value in &e.values {
                    line(
                        out,
                        &format!("\t{} = {:#x},", btf.str(value.name), value.value),
                    );
                }
                line(out, "};");
            }
            Type::Typedef { target, .. } => {
                let text = format!("typedef {};", btf.c_declaration(*target, name));
                let later = btf.get(*target).kind() == Kind::Struct;
                line(if later { &mut typedefs_of_structs } else { out }, &text);
            }
            Type::Void
            | Type::Int { .. }
            | Type::Ptr { .. }
            | Type::Array { .. }
            | Type::Union(_)
            | Type::Volatile { .. }
            | Type::Const { .. }
            | Type::Restrict { .. }
            | Type::Func { .. }
            | Type::FuncProto { .. }
            | Type::Var { .. }
            | Type::DataSec { .. }
            | Type::Float { .. }
            | Type::DeclTag { .. }
            | Type::TypeTag { .. } => {}
        }
    }
    out.push_str(&typedefs_of_structs);
}

fn define(btf: &Btf, name: &str, composite: &Composite, out: &mut String) {
    line(out, &format!("\nstruct {name} {{"));
    for member in &composite.members {
        let declaration = btf.c_declaration(member.type_id, btf.str(member.name));
        line(out, &format!("\t{declaration};"));
    }
    line(out, "};");
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("writing to a string does not fail");
}
