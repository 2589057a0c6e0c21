//! Types as C text.

use super::{Btf, Type, TypeId};

/// Pointers, arrays, qualifiers and parameters that one declaration spells out.
const NODES_MAX: u32 = 256;

impl Btf {
    /// The type in C, as in a cast: `const struct cpumask *`.
    #[must_use]
    pub fn c_type(&self, id: TypeId) -> String {
        self.c_declaration(id, "")
    }

    /// A declaration of `name` with this type, without semicolon.
    #[must_use]
    pub fn c_declaration(&self, id: TypeId, name: &str) -> String {
        self.declare(id, name.to_owned(), &mut { NODES_MAX })
    }

    /// `inner` is the declarator so far; it grows outwards as C wants it.
    fn declare(&self, id: TypeId, inner: String, budget: &mut u32) -> String {
        let Some(left) = budget.checked_sub(1) else {
            return spaced("...", &inner);
        };
        *budget = left;
        match self.get(id) {
            Type::Ptr { target } => {
                let binds_tighter = matches!(
                    self.get(*target),
                    Type::Array { .. } | Type::FuncProto { .. }
                );
                let inner = if binds_tighter {
                    format!("(*{inner})")
                } else {
                    format!("*{inner}")
                };
                self.declare(*target, inner, budget)
            }
            Type::Array { element, len, .. } => {
                self.declare(*element, format!("{inner}[{len}]"), budget)
            }
            Type::FuncProto { ret, params } => {
                let params: Vec<String> = params
                    .iter()
                    .map(|param| {
                        if param.type_id == TypeId::VOID {
                            "...".to_owned()
                        } else {
                            self.declare(param.type_id, self.str(param.name).to_owned(), budget)
                        }
                    })
                    .collect();
                let params = if params.is_empty() {
                    "void".to_owned()
                } else {
                    params.join(", ")
                };
                self.declare(*ret, format!("{inner}({params})"), budget)
            }
            Type::Const { target } => self.qualified("const", *target, inner, budget),
            Type::Volatile { target } => self.qualified("volatile", *target, inner, budget),
            Type::Restrict { target } => self.qualified("restrict", *target, inner, budget),
            Type::TypeTag { target, .. } | Type::DeclTag { target, .. } => {
                self.declare(*target, inner, budget)
            }
            Type::Var { type_id, .. } => self.declare(*type_id, inner, budget),
            Type::Func { proto, .. } => self.declare(*proto, inner, budget),
            Type::Void => spaced("void", &inner),
            Type::Struct(c) => spaced(&self.tagged("struct", self.str(c.name)), &inner),
            Type::Union(c) => spaced(&self.tagged("union", self.str(c.name)), &inner),
            Type::Enum(e) => spaced(&self.tagged("enum", self.str(e.name)), &inner),
            Type::Fwd { name, is_union } => {
                let keyword = if *is_union { "union" } else { "struct" };
                spaced(&self.tagged(keyword, self.str(*name)), &inner)
            }
            Type::Int { name, .. }
            | Type::Float { name, .. }
            | Type::Typedef { name, .. }
            | Type::DataSec { name, .. } => spaced(self.str(*name), &inner),
        }
    }

    fn tagged(&self, keyword: &str, name: &str) -> String {
        if name.is_empty() {
            format!("{keyword} {{...}}")
        } else {
            format!("{keyword} {name}")
        }
    }

    /// Qualifiers of a pointer stand after its star, others before the type.
    fn qualified(&self, word: &str, target: TypeId, inner: String, budget: &mut u32) -> String {
        if matches!(self.get(target), Type::Ptr { .. }) {
            self.declare(target, spaced(word, &inner), budget).replacen(
                &format!("*{word}"),
                &format!("* {word}"),
                1,
            )
        } else {
            format!("{word} {}", self.declare(target, inner, budget))
        }
    }
}

fn spaced(left: &str, right: &str) -> String {
    if right.is_empty() {
        left.to_owned()
    } else {
        format!("{left} {right}")
    }
}
