//! Kernel error numbers that programs see.

use core::fmt;

macro_rules! errnos {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        /// A kernel error number.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(i32)]
        pub enum Errno {
            $(#[doc = $text] $name = $value,)*
        }

        impl Errno {
            /// The error with this positive number, if it is one that harena uses.
            #[must_use]
            pub const fn from_raw(raw: i32) -> Option<Self> {
                match raw {
                    $($value => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The kernel's name of the error.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

errnos! {
    EPERM = 1, "Operation not permitted.";
    ENOENT = 2, "No such entry.";
    ESRCH = 3, "No such process.";
    EINTR = 4, "Interrupted.";
    EIO = 5, "Input/output error.";
    E2BIG = 7, "Argument list too long, or a size above the limit.";
    EBADF = 9, "Bad file number.";
    EAGAIN = 11, "Try again.";
    ENOMEM = 12, "Out of memory.";
    EACCES = 13, "Permission denied.";
    EFAULT = 14, "Bad address.";
    EBUSY = 16, "Resource busy.";
    EEXIST = 17, "Exists already.";
    ENODEV = 19, "No such device.";
    EINVAL = 22, "Invalid argument.";
    ENOSPC = 28, "No space left.";
    ERANGE = 34, "Result out of range.";
    EDEADLK = 35, "Would deadlock.";
    ENAMETOOLONG = 36, "Name too long.";
    ELOOP = 40, "Too many levels.";
    EPROTO = 71, "Protocol error.";
    EOVERFLOW = 75, "Value too large.";
    EOPNOTSUPP = 95, "Operation not supported.";
    ETIMEDOUT = 110, "Timed out.";
    ENOTSUPP = 524, "Operation not supported (kernel internal).";
}

impl Errno {
    /// The negative value a kernel function returns.
    #[must_use]
    pub const fn as_ret(self) -> i32 {
        -(self as i32)
    }

    /// The negative value as a program's 64-bit register holds it.
    #[must_use]
    #[expect(
        clippy::cast_sign_loss,
        reason = "registers hold errors sign-extended to 64 bits"
    )]
    pub const fn as_reg(self) -> u64 {
        self.as_ret() as i64 as u64
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
