//! The simulated kernel's types as a file that libbpf takes for the running kernel's.

use harena_bpf::KernelSymbols;
use harena_bpf::btf::{Btf, Kind};
use harena_kernel::Kernel;
use tempfile::NamedTempFile;

/// Ticks per second of the kernel, and what libbpf is told of its configuration.
pub(crate) const HZ: u32 = 1000;
pub(crate) const KCONFIG: &str = "CONFIG_HZ=1000\n";

/// Bytes of a file of BTF, to add types to.
struct Types {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

/// Bytes of BTF's header, which is all that stands before the types here.
const HEADER: usize = 24;
const STRUCT: u32 = 4;
const FORWARD: u32 = 7;
const VAR: u32 = 14;
const GLOBAL: u32 = 1;

/// Bytes of a type with so many parts.
fn type_bytes(kind: u32, parts: usize) -> usize {
    let rest = match kind {
        1 | 14 | 17 => 4,
        3 => 12,
        4 | 5 | 15 | 19 => 12 * parts,
        6 | 13 => 8 * parts,
        _ => 0,
    };
    12 + rest
}

impl Types {
    fn of(btf: &Btf) -> Self {
        let bytes = btf.to_bytes();
        let word = |at: usize| {
            let word = bytes[at..at + 4].try_into().expect("four bytes");
            usize::try_from(u32::from_le_bytes(word)).expect("small")
        };
        let section = |offset: usize, len: usize| {
            let start = word(4) + word(offset);
            bytes[start..start + word(len)].to_vec()
        };
        Self {
            types: section(8, 12),
            strings: section(16, 20),
            count: u32::try_from(btf.ids().count()).expect("few"),
        }
    }

    /// Makes structs without members of those that are only declared: a kernel's types are whole,
    /// and libbpf matches no struct with a declaration.
    fn complete(&mut self) {
        let mut at = 0;
        while at < self.types.len() {
            let word = self.types[at + 4..at + 8].try_into().expect("four bytes");
            let info = u32::from_le_bytes(word);
            let kind = info >> 24 & 0x1f;
            if kind == FORWARD {
                let is_union = info >> 31;
                let info = (STRUCT + is_union) << 24;
                self.types[at + 4..at + 8].copy_from_slice(&info.to_le_bytes());
            }
            at += type_bytes(kind, usize::try_from(info & 0xffff).expect("16 bits"));
        }
        assert_eq!(at, self.types.len());
    }

    fn name(&mut self, name: &str) -> u32 {
        let at = u32::try_from(self.strings.len()).expect("few");
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        at
    }

    /// Adds a type, whose number is given.
    fn add(&mut self, words: &[u32]) -> u32 {
        self.types
            .extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self.count += 1;
        self.count
    }

    fn bytes(&self) -> Vec<u8> {
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).expect("few");
        let mut all = vec![0x9f, 0xeb, 1, 0];
        let header = u32::try_from(HEADER).expect("24");
        let (types, strings) = (len(&self.types), len(&self.strings));
        for word in [header, 0, types, types, strings] {
            all.extend(word.to_le_bytes());
        }
        assert_eq!(all.len(), HEADER);
        all.extend(&self.types);
        all.extend(&self.strings);
        all
    }
}

/// The types of the simulated kernel. libbpf wants to see what our loader does without: a struct
/// around an ops table, the kernel's variables, and no declarations.
pub(crate) fn types_of(kernel: &Kernel) -> NamedTempFile {
    let btf = kernel.btf();
    let mut types = Types::of(btf);
    types.complete();
    for ops in ["sched_ext_ops", "sched_ext_ops_cid"] {
        let data = btf.find(ops, Kind::Struct).expect("modelled");
        let size = btf.get(data).composite().expect("a struct").size;
        let name = types.name(&format!("bpf_struct_ops_{ops}"));
        let member = types.name("data");
        let members = [member, data.raw(), 0];
        types.add(&[&[name, STRUCT << 24 | 1, size][..], &members].concat());
    }
    let rq = btf.find("rq", Kind::Struct).expect("modelled");
    let name = types.name("runqueues");
    types.add(&[name, VAR << 24, rq.raw(), GLOBAL]);
    file_of(&types.bytes())
}

pub(crate) fn file_of(bytes: &[u8]) -> NamedTempFile {
    let file = NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), bytes).expect("a temporary file takes bytes");
    file
}
