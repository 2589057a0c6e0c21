//! The `printf` of programs: what `bpf_trace_printk`, `bpf_snprintf` and streams accept.
//!
//! The grammar is that of the kernel's `bpf_bprintf_prepare()`: flags and width, `%d %i
//! %u %x %X` with `l` or `ll`, `%c`, `%s` (and `%pks`), `%p %px %pK`, `%%`; anything else
//! is `EINVAL`. Pointers are printed plainly: guest addresses are equal in every run.

use harena_abi::{Errno, KernAddr};

use crate::mem::GuestMem;

/// `MAX_BPRINTF_BUF`: bytes of a formatted message, its NUL included.
pub(crate) const MESSAGE_MAX: usize = 1024;
/// `MAX_BPRINTF_VARARGS`.
pub const ARGS_MAX: u64 = 12;
/// Widths beyond a message's size change nothing.
const WIDTH_MAX: usize = MESSAGE_MAX;

#[derive(Clone, Copy, Default)]
struct Spec {
    left: bool,
    zero: bool,
    plus: bool,
    space: bool,
    width: usize,
    /// 64-bit operand.
    long: bool,
}

struct Parser<'a> {
    rest: &'a [u8],
    args: std::slice::Iter<'a, u64>,
    mem: &'a GuestMem,
    out: Vec<u8>,
}

/// Formats one message, cut at `MESSAGE_MAX` bytes.
pub fn format(mem: &GuestMem, fmt: &[u8], args: &[u64]) -> Result<Vec<u8>, Errno> {
    let mut out = format_all(mem, fmt, args)?;
    out.truncate(MESSAGE_MAX - 1);
    Ok(out)
}

/// Formats one message, however long it gets (bounded by the format and [`WIDTH_MAX`]).
pub(crate) fn format_all(mem: &GuestMem, fmt: &[u8], args: &[u64]) -> Result<Vec<u8>, Errno> {
    let mut parser = Parser {
        rest: fmt,
        args: args.iter(),
        mem,
        out: Vec::with_capacity(fmt.len()),
    };
    while let Some(byte) = parser.next() {
        match byte {
            b'%' => parser.conversion()?,
            byte if is_text(byte) => parser.out.push(byte),
            _ => return Err(Errno::EINVAL),
        }
    }
    Ok(parser.out)
}

/// The kernel accepts printable ASCII and white space.
const fn is_text(byte: u8) -> bool {
    byte.is_ascii_graphic() || byte.is_ascii_whitespace() || byte == 0x0b
}

impl Parser<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    fn accept(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.next();
        }
        found
    }

    fn arg(&mut self) -> Result<u64, Errno> {
        self.args.next().copied().ok_or(Errno::EINVAL)
    }

    fn conversion(&mut self) -> Result<(), Errno> {
        if self.accept(b'%') {
            self.out.push(b'%');
            return Ok(());
        }
        let mut spec = self.flags_and_width();
        if self.accept(b'p') {
            return self.pointer(spec);
        }
        if self.accept(b's') {
            return self.string(spec);
        }
        if self.accept(b'c') {
            let [byte, ..] = self.arg()?.to_le_bytes();
            self.pad(spec, &[byte]);
            return Ok(());
        }
        if self.accept(b'l') {
            spec.long = true;
            self.accept(b'l');
        }
        match self.next() {
            Some(b'd' | b'i') => self.signed(spec),
            Some(b'u') => self.unsigned(spec, |v| v.to_string()),
            Some(b'x') => self.unsigned(spec, |v| format!("{v:x}")),
            Some(b'X') => self.unsigned(spec, |v| format!("{v:X}")),
            Some(_) | None => Err(Errno::EINVAL),
        }
    }

    fn flags_and_width(&mut self) -> Spec {
        let mut spec = Spec::default();
        loop {
            match self.peek() {
                Some(b'0') => spec.zero = true,
                Some(b'+') => spec.plus = true,
                Some(b'-') => spec.left = true,
                Some(b' ') => spec.space = true,
                _ => break,
            }
            self.next();
        }
        while let Some(digit) = self.peek().filter(u8::is_ascii_digit) {
            let digit = usize::from(digit - b'0');
            spec.width = (spec.width * 10 + digit).min(WIDTH_MAX);
            self.next();
        }
        spec
    }

    fn pointer(&mut self, spec: Spec) -> Result<(), Errno> {
        if matches!(self.rest, [b'k' | b'u', b's', ..]) {
            self.next();
            self.next();
            return self.string(spec);
        }
        match self.peek() {
            Some(b'x' | b'K' | b's' | b'S') => {
                self.next();
            }
            Some(b'i' | b'I' | b'B') => return Err(Errno::EINVAL),
            Some(byte) if byte.is_ascii_alphanumeric() => return Err(Errno::EINVAL),
            Some(_) | None => {}
        }
        let text = format!("{:016x}", self.arg()?);
        self.pad(spec, text.as_bytes());
        Ok(())
    }

    /// An unreadable string prints as an empty one.
    fn string(&mut self, spec: Spec) -> Result<(), Errno> {
        let addr = KernAddr::new(self.arg()?);
        let text = self.mem.cstr(addr, MESSAGE_MAX as u64).unwrap_or_default();
        let spec = Spec {
            zero: false,
            ..spec
        };
        self.pad(spec, &text);
        Ok(())
    }

    fn signed(&mut self, spec: Spec) -> Result<(), Errno> {
        let value = self.arg()?.cast_signed();
        let value = if spec.long {
            value
        } else {
            i64::from(low(value.cast_unsigned()).cast_signed())
        };
        let sign = match (value < 0, spec.plus, spec.space) {
            (true, _, _) => "-",
            (false, true, _) => "+",
            (false, false, true) => " ",
            (false, false, false) => "",
        };
        self.number(spec, sign, &value.unsigned_abs().to_string());
        Ok(())
    }

    fn unsigned(&mut self, spec: Spec, digits: fn(u64) -> String) -> Result<(), Errno> {
        let value = self.arg()?;
        let value = if spec.long {
            value
        } else {
            u64::from(low(value))
        };
        self.number(spec, "", &digits(value));
        Ok(())
    }

    fn number(&mut self, spec: Spec, sign: &str, digits: &str) {
        let zeroes = if spec.zero && !spec.left {
            spec.width.saturating_sub(sign.len() + digits.len())
        } else {
            0
        };
        let text = format!("{sign}{}{digits}", "0".repeat(zeroes));
        self.pad(spec, text.as_bytes());
    }

    fn pad(&mut self, spec: Spec, text: &[u8]) {
        let blanks = vec![b' '; spec.width.saturating_sub(text.len())];
        if spec.left {
            self.out.extend_from_slice(text);
            self.out.extend_from_slice(&blanks);
        } else {
            self.out.extend_from_slice(&blanks);
            self.out.extend_from_slice(text);
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "`%d` without `l` prints the low half"
)]
const fn low(value: u64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Region;

    fn print(fmt: &str, args: &[u64]) -> Result<String, Errno> {
        let mem = GuestMem::new().unwrap();
        format(&mem, fmt.as_bytes(), args).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn numbers_as_the_kernel_prints_them() {
        let minus_one = u64::MAX;
        let cases: &[(&str, &[u64], &str)] = &[
            ("%d %i", &[minus_one, 7], "-1 7"),
            ("%u|%x|%X", &[minus_one, 0xabc, 0xabc], "4294967295|abc|ABC"),
            ("%lld %ld", &[minus_one, 1 << 40], "-1 1099511627776"),
            (
                "%llu %llx",
                &[minus_one, minus_one],
                "18446744073709551615 ffffffffffffffff",
            ),
            ("[%5d][%-5d][%05d]", &[42, 42, 42], "[   42][42   ][00042]"),
            ("[%+d][% d][%05d]", &[1, 1, minus_one], "[+1][ 1][-0001]"),
            (
                "%p %px",
                &[0x1f, u64::MAX],
                "000000000000001f ffffffffffffffff",
            ),
            ("%c%c 100%%", &[b'o'.into(), b'k'.into()], "ok 100%"),
        ];
        for (fmt, args, expected) in cases {
            assert_eq!(print(fmt, args).unwrap(), *expected, "{fmt}");
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_einval() {
        for fmt in [
            "%", "%z", "%5", "%f", "%n", "%ls", "%pI4", "\u{1}", "%*d", "%.3d", "%hd",
        ] {
            assert_eq!(print(fmt, &[1, 2]), Err(Errno::EINVAL), "{fmt}");
        }
        assert_eq!(print("%d %d", &[1]), Err(Errno::EINVAL));
    }

    #[test]
    fn strings_come_from_guest_memory_and_bad_ones_are_empty() {
        let mem = GuestMem::new().unwrap();
        let at = mem.alloc(Region::Kernel, 16, 1).unwrap();
        mem.write_bytes(at, b"task\0").unwrap();
        let args = [at.raw(), 0, at.raw()];
        let text = format(&mem, b"<%s><%s><%6pks>", &args).unwrap();
        assert_eq!(text, b"<task><><  task>");
    }

    #[test]
    fn messages_are_cut_at_their_buffer() {
        let text = print("%2000d", &[1]).unwrap();
        assert_eq!(text.len(), MESSAGE_MAX - 1);
    }
}
