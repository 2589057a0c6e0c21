//! Typed loads and stores of kernel structs in guest memory.
//!
//! `put` and `get` are for what the kernel itself allocated: that memory is mapped for the
//! life of the machine, so a fault there is a bug. `load` is for addresses that a program
//! gave, which may lead anywhere.

use harena_abi::KernAddr;
use harena_vm::{GuestMem, MemFault};

use crate::reg::{as_s32, as_s64};
use crate::types::ctype::{Field, Ptr};

/// A C scalar that guest memory can hold.
pub(crate) trait Scalar: Sized {
    fn load(mem: &GuestMem, at: KernAddr) -> Result<Self, MemFault>;
    fn store(self, mem: &GuestMem, at: KernAddr) -> Result<(), MemFault>;
}

macro_rules! scalars {
    ($($ty:ty: $read:ident $write:ident, $get:expr, $put:expr;)*) => {$(
        impl Scalar for $ty {
            fn load(mem: &GuestMem, at: KernAddr) -> Result<Self, MemFault> {
                mem.$read(at).map($get)
            }
            fn store(self, mem: &GuestMem, at: KernAddr) -> Result<(), MemFault> {
                mem.$write(at, $put(self))
            }
        }
    )*};
}

scalars! {
    bool: read_u8 write_u8, |v| v != 0, u8::from;
    u16: read_u16 write_u16, |v| v, |v| v;
    u32: read_u32 write_u32, |v| v, |v| v;
    i32: read_u32 write_u32, |v| as_s32(v.into()), i32::cast_unsigned;
    u64: read_u64 write_u64, |v| v, |v| v;
    i64: read_u64 write_u64, as_s64, i64::cast_unsigned;
}

/// Access to fields by name and type.
pub(crate) trait Fields {
    /// Loads a field of a struct that a program points to.
    fn load<T: Scalar>(&self, base: KernAddr, field: Field<T>) -> Result<T, MemFault>;
    /// Loads a field of a kernel object.
    fn get<T: Scalar>(&self, base: KernAddr, field: Field<T>) -> T;
    /// Stores a field of a kernel object.
    fn put<T: Scalar>(&self, base: KernAddr, field: Field<T>, value: T);
    /// Stores a pointer field of a kernel object.
    fn put_ptr<T>(&self, base: KernAddr, field: Field<Ptr<T>>, value: KernAddr);
    /// Stores a NUL-terminated string in a character array; what does not fit is cut.
    fn put_str<const N: usize>(&self, base: KernAddr, field: Field<[i8; N]>, text: &str);
}

const BACKED: &str = "kernel objects lie in memory that is always mapped";

fn at<T>(base: KernAddr, field: &Field<T>) -> KernAddr {
    KernAddr::new(base.raw().wrapping_add(field.offset()))
}

impl Fields for GuestMem {
    fn load<T: Scalar>(&self, base: KernAddr, field: Field<T>) -> Result<T, MemFault> {
        T::load(self, at(base, &field))
    }

    fn get<T: Scalar>(&self, base: KernAddr, field: Field<T>) -> T {
        self.load(base, field).expect(BACKED)
    }

    fn put<T: Scalar>(&self, base: KernAddr, field: Field<T>, value: T) {
        value.store(self, at(base, &field)).expect(BACKED);
    }

    fn put_ptr<T>(&self, base: KernAddr, field: Field<Ptr<T>>, value: KernAddr) {
        self.write_u64(at(base, &field), value.raw()).expect(BACKED);
    }

    fn put_str<const N: usize>(&self, base: KernAddr, field: Field<[i8; N]>, text: &str) {
        let mut bytes = [0; N];
        let len = text.len().min(N.saturating_sub(1));
        bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
        self.write_bytes(at(base, &field), &bytes).expect(BACKED);
    }
}
