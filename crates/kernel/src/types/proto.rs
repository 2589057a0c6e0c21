//! C prototypes as text: how the kfunc and ops tables say their types.
//!
//! A prototype is read as C reads it, from a small grammar: `[const] base *… name`, where
//! a base is `void`, a kernel integer name, `char`, `bool`, `struct x` or `enum x`; a parameter
//! may point to a function, `ret (*name)(args)`. The tables are ours, so a malformed one is a bug
//! and asserts; a test reads them all.

use super::ctype::{IntDesc, IntKind, TypeDesc};

/// A function's type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proto {
    /// What it returns.
    pub ret: Box<TypeDesc>,
    /// Parameter names and types.
    pub args: Vec<(String, TypeDesc)>,
}

impl Proto {
    /// Reads `ret (args)` or `ret name(args)`; the name, if any, comes with it.
    ///
    /// # Panics
    /// If the text is not a prototype: tables are part of this crate.
    #[must_use]
    pub fn parse(text: &str) -> (String, Self) {
        let (head, rest) = text
            .split_once('(')
            .expect("a prototype has a parameter list");
        let args = rest
            .trim()
            .strip_suffix(')')
            .expect("a prototype ends with `)`");
        let (name, ret) = declaration(head);
        let args = args.trim();
        let args = match args {
            "" | "void" => Vec::new(),
            list => parameters(list).into_iter().map(declaration).collect(),
        };
        let ret = Box::new(ret);
        (name, Self { ret, args })
    }
}

/// The declarations in a list of parameters, of which a function pointer's has a list of its own.
fn parameters(list: &str) -> Vec<&str> {
    let mut depth = 0;
    list.split(|char| {
        match char {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        char == ',' && depth == 0
    })
    .collect()
}

/// The type of a pointer to a function of this prototype.
#[must_use]
pub fn fn_ptr(text: &str) -> TypeDesc {
    TypeDesc::Ptr(Box::new(TypeDesc::Fn(Proto::parse(text).1)))
}

/// `const struct cpumask *m` or `bool (*less)(int a)` to its name (empty if absent) and type.
///
/// # Panics
/// If the text is not a declaration: tables are part of this crate.
#[must_use]
pub fn declaration(text: &str) -> (String, TypeDesc) {
    if let Some((ret, rest)) = text.split_once("(*") {
        let (name, args) = rest.split_once(')').expect("a function pointer has a name");
        return (name.trim().to_owned(), fn_ptr(&format!("{ret}{args}")));
    }
    let spaced = text.replace('*', " * ");
    let mut words = spaced.split_whitespace().peekable();
    let is_const = words.next_if_eq(&"const").is_some();
    let base = match words.next().expect("a declaration has a type") {
        "struct" => TypeDesc::Struct(words.next().expect("a struct has a name").to_owned()),
        "enum" => TypeDesc::Enum(words.next().expect("an enum has a name").to_owned()),
        "void" => TypeDesc::Void,
        "unsigned" => TypeDesc::Int(integer(match words.next() {
            Some("long") => "u64",
            Some("int") => "u32",
            other => panic!("`unsigned {other:?}` is no integer type of the tables"),
        })),
        name => TypeDesc::Int(integer(name)),
    };
    let mut ty = if is_const {
        TypeDesc::Const(Box::new(base))
    } else {
        base
    };
    while words.next_if_eq(&"*").is_some() {
        ty = TypeDesc::Ptr(Box::new(ty));
    }
    let name = words.next().unwrap_or_default().to_owned();
    assert!(words.next().is_none(), "`{text}` is no declaration");
    (name, ty)
}

/// The integer type of this name.
///
/// # Panics
/// If there is none: tables are part of this crate.
#[must_use]
pub fn integer(name: &str) -> IntDesc {
    let (name, size, kind) = match name {
        "u8" => ("unsigned char", 1, IntKind::Unsigned),
        "s8" => ("signed char", 1, IntKind::Signed),
        "u16" => ("unsigned short", 2, IntKind::Unsigned),
        "s16" => ("short", 2, IntKind::Signed),
        "char" => ("char", 1, IntKind::Signed),
        "s32" | "int" => ("int", 4, IntKind::Signed),
        "u32" => ("unsigned int", 4, IntKind::Unsigned),
        "s64" => ("long", 8, IntKind::Signed),
        "u64" | "size_t" => ("unsigned long", 8, IntKind::Unsigned),
        "bool" => ("_Bool", 1, IntKind::Bool),
        other => panic!("`{other}` is no integer type of the tables"),
    };
    IntDesc { name, size, kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prototype_keeps_names_and_pointers() {
        let (name, proto) = Proto::parse("s32 pick(const struct cpumask *m, u64 flags)");
        assert_eq!(name, "pick");
        assert_eq!(proto.args[0].0, "m");
        let mask = TypeDesc::Const(Box::new(TypeDesc::Struct("cpumask".into())));
        assert_eq!(proto.args[0].1, TypeDesc::Ptr(Box::new(mask)));
        assert_eq!(proto.args[1].0, "flags");
        assert_eq!(*proto.ret, TypeDesc::Int(integer("s32")));
    }

    #[test]
    fn a_parameter_may_point_to_a_function() {
        let (_, proto) = Proto::parse("int f(bool (*less)(u32 a, const struct x *b), u64 off)");
        let names: Vec<_> = proto.args.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["less", "off"]);
        assert_eq!(proto.args[0].1, fn_ptr("bool (u32 a, const struct x *b)"));
    }

    #[test]
    fn a_pointer_result_and_no_parameters() {
        let (name, proto) = Proto::parse("struct task_struct *curr(void)");
        assert_eq!(name, "curr");
        assert!(proto.args.is_empty());
        assert!(matches!(*proto.ret, TypeDesc::Ptr(_)));
    }
}
