//! How a Rust struct describes itself as a C type.
//!
//! [`ctypes!`] takes C-like struct definitions and makes of each a `#[repr(C)]` struct, so
//! that the compiler lays it out and `offset_of!` gives the offsets, and a [`StructDesc`]
//! that says the same to programs, as BTF. There is one table and no second layout
//! computation that could disagree.
//!
//! Descriptions are functions, not constants: `task_struct` points to itself, and a
//! constant may not.

use super::proto::Proto;

/// A C type as BTF sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TypeDesc {
    /// `void`, behind a pointer or as a return type.
    Void,
    /// An integer, `char` or `_Bool`.
    Int(IntDesc),
    /// `T *`.
    Ptr(Box<Self>),
    /// `const T`.
    Const(Box<Self>),
    /// `T[len]`.
    Array(Box<Self>, u32),
    /// `struct name`; a forward declaration if no table defines it.
    Struct(String),
    /// `enum name`.
    Enum(String),
    /// A function's prototype, behind a pointer.
    Fn(Proto),
}

/// How an integer's bits are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IntKind {
    /// Unsigned.
    Unsigned,
    /// Two's complement.
    Signed,
    /// `_Bool`.
    Bool,
}

/// An integer type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IntDesc {
    /// C's spelling.
    pub name: &'static str,
    /// Bytes.
    pub size: u32,
    /// Meaning.
    pub kind: IntKind,
}

/// A struct with its fields in order of offset.
#[derive(Clone, Copy, Debug)]
pub struct StructDesc {
    /// C name.
    pub name: &'static str,
    /// Bytes.
    pub size: u32,
    /// The fields.
    pub fields: fn() -> Vec<FieldDesc>,
}

/// A field of a struct.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldDesc {
    /// C name.
    pub name: &'static str,
    /// Bytes from the start of the struct.
    pub offset: u32,
    /// Type.
    pub ty: TypeDesc,
}

/// A Rust type with a C meaning.
pub trait CType {
    /// The C meaning.
    fn desc() -> TypeDesc;
}

macro_rules! ints {
    ($($rust:ty => $name:literal $kind:ident;)*) => {$(
        impl CType for $rust {
            fn desc() -> TypeDesc {
                TypeDesc::Int(IntDesc {
                    name: $name,
                    size: size32(size_of::<Self>()),
                    kind: IntKind::$kind,
                })
            }
        }
    )*};
}

ints! {
    u8 => "unsigned char" Unsigned;
    i8 => "char" Signed;
    u16 => "unsigned short" Unsigned;
    i16 => "short" Signed;
    u32 => "unsigned int" Unsigned;
    i32 => "int" Signed;
    u64 => "unsigned long" Unsigned;
    i64 => "long" Signed;
    bool => "_Bool" Bool;
}

/// `void`.
#[derive(Debug)]
pub enum Void {}

impl CType for Void {
    fn desc() -> TypeDesc {
        TypeDesc::Void
    }
}

/// `const T`, behind a pointer.
#[derive(Debug)]
pub struct Const<T>(T);

impl<T: CType> CType for Const<T> {
    fn desc() -> TypeDesc {
        TypeDesc::Const(Box::new(T::desc()))
    }
}

/// A pointer as guest memory holds it: a guest address.
#[repr(transparent)]
#[derive(Debug)]
pub struct Ptr<T> {
    addr: u64,
    target: std::marker::PhantomData<fn() -> T>,
}

impl<T: CType> CType for Ptr<T> {
    fn desc() -> TypeDesc {
        TypeDesc::Ptr(Box::new(T::desc()))
    }
}

/// A function pointer; its prototype stands in the struct's table.
#[repr(transparent)]
#[derive(Debug)]
pub struct FnPtr(u64);

impl<T: CType, const N: usize> CType for [T; N] {
    fn desc() -> TypeDesc {
        TypeDesc::Array(Box::new(T::desc()), size32(N))
    }
}

/// The C name of a Rust field: `r#priv` is `priv`, and `self_` is `self`.
#[must_use]
pub fn c_name(field: &'static str) -> &'static str {
    let name = field.strip_prefix("r#").unwrap_or(field);
    name.strip_suffix('_').unwrap_or(name)
}

/// A size as BTF counts it.
#[must_use]
pub const fn size32(size: usize) -> u32 {
    assert!(size <= u32::MAX as usize);
    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
    {
        size as u32
    }
}

/// A field's place in a struct, with its type: what typed loads and stores take.
#[derive(Debug)]
pub struct Field<T> {
    offset: u64,
    ty: std::marker::PhantomData<fn() -> T>,
}

impl<T> Field<T> {
    /// The field that `select` names, at `offset`; use [`field!`].
    #[must_use]
    pub const fn new<S>(offset: usize, _select: fn(&S) -> &T) -> Self {
        Self {
            offset: size32(offset) as u64,
            ty: std::marker::PhantomData,
        }
    }

    /// Bytes from the start of the outer struct.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }
}

/// `field!(task_struct, scx.weight)`: the place and type of a field, nested ones too.
macro_rules! field {
    ($outer:ty, $($name:tt).+) => {
        $crate::types::ctype::Field::new::<$outer>(
            ::core::mem::offset_of!($outer, $($name).+),
            |outer| &outer.$($name).+,
        )
    };
}
pub(crate) use field;

/// Defines structs, their layout and their description; see the module's comment.
///
/// `name: FnPtr = "ret (args)"` gives a function pointer its prototype.
macro_rules! ctypes {
    ($(
        $(#[$doc:meta])*
        struct $name:ident { $($field:ident : $ty:ty $(= $proto:expr)?),* $(,)? }
    )*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Debug)]
            #[expect(missing_docs, reason = "each field is the kernel's of that name")]
            pub struct $name { $(pub $field: $ty,)* }

            impl $name {
                /// The C description.
                pub const DESC: $crate::types::ctype::StructDesc = $crate::types::ctype::StructDesc {
                    name: stringify!($name),
                    size: $crate::types::ctype::size32(::core::mem::size_of::<Self>()),
                    fields: || vec![$($crate::types::ctype::FieldDesc {
                        name: $crate::types::ctype::c_name(stringify!($field)),
                        offset: $crate::types::ctype::size32(::core::mem::offset_of!($name, $field)),
                        ty: ctypes!(@desc $ty $(, $proto)?),
                    },)*],
                };
            }

            impl $crate::types::ctype::CType for $name {
                fn desc() -> $crate::types::ctype::TypeDesc {
                    $crate::types::ctype::TypeDesc::Struct(stringify!($name).to_owned())
                }
            }
        )*

        /// The structs of this file.
        pub(crate) const STRUCTS: &[$crate::types::ctype::StructDesc] = &[$($name::DESC),*];
    };
    (@desc $ty:ty) => { <$ty as $crate::types::ctype::CType>::desc() };
    (@desc $ty:ty, $proto:expr) => { $crate::types::proto::fn_ptr($proto) };
}
pub(crate) use ctypes;

/// Types that a table names but leaves opaque: enums by value, structs only pointed to.
macro_rules! named {
    ($($(#[$doc:meta])* $kind:ident $name:ident;)*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Debug)]
        pub struct $name(pub u32);

        impl $crate::types::ctype::CType for $name {
            fn desc() -> $crate::types::ctype::TypeDesc {
                $crate::types::ctype::TypeDesc::$kind(stringify!($name).to_owned())
            }
        }
    )*};
}
pub(crate) use named;
