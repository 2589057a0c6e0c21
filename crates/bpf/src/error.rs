//! What can be wrong with an object, and where.

use crate::btf::{BtfError, LayoutError, PathError, TypeId};
use crate::fields::FieldError;
use std::fmt;

/// An instruction of an object file, for messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InsnPlace {
    /// The file.
    pub file: String,
    /// The section.
    pub section: String,
    /// The function.
    pub func: String,
    /// Slot within the section.
    pub insn: u32,
    /// Source line, if the object has line information.
    pub source: Option<String>,
}

impl fmt::Display for InsnPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            section,
            func,
            insn,
            source,
        } = self;
        write!(f, "{file}:{section}+{insn} in `{func}`")?;
        match source {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}

/// Why bytes are no BPF object.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum ParseError {
    #[error("not an ELF file")]
    NotElf,
    #[error("not a 64-bit ELF file")]
    Not64Bit,
    #[error("big-endian BPF object: compile with -target bpfel")]
    BigEndian,
    #[error("compiled for machine {machine}, not for BPF (247)")]
    Machine { machine: u16 },
    #[error("ELF type {kind} is not a relocatable object (1)")]
    NotRelocatable { kind: u16 },
    #[error("no symbol table")]
    NoSymbols,
    #[error("ELF {what}: {cause}")]
    Elf { what: &'static str, cause: String },
    #[error("section `{section}`: {cause}")]
    Section { section: String, cause: String },
    #[error("symbol {number}: {cause}")]
    Symbol { number: usize, cause: String },
    #[error("sections overlap: they have {total} bytes, the file {file}")]
    OverlappingSections { total: u64, file: u64 },
    #[error("section `{section}` has {size} bytes, at most {max} are supported")]
    SectionTooLarge {
        section: String,
        size: u64,
        max: u64,
    },
    #[error("legacy map definitions in section `maps` are not supported: use BTF in `.maps`")]
    LegacyMaps,
    #[error("section `.BTF` is broken")]
    Btf(#[from] BtfError),
    #[error("section `.BTF.ext`: {what} at byte {offset:#x}")]
    BtfExt { what: &'static str, offset: usize },
    #[error("section `{section}` needs BTF type information, but has none: compile with -g")]
    NeedsBtf { section: String },
    #[error("section `{section}`: function `{func}` at {offset:#x}, {size:#x} bytes: {cause}")]
    Function {
        section: String,
        func: String,
        offset: u64,
        size: u64,
        cause: &'static str,
    },
    #[error("section `{section}`: program `{program}` is static, which is not supported")]
    StaticProgram { section: String, program: String },
    #[error("relocation {number} of section `{section}` at {offset:#x}: {cause}")]
    Reloc {
        section: String,
        number: u32,
        offset: u64,
        cause: String,
    },
    #[error("map `{map}`: {cause}")]
    Map { map: String, cause: MapProblem },
    #[error("maps `{first}` and `{second}` are both arenas: an object can have one")]
    TwoArenas { first: String, second: String },
    #[error("globals in `.addr_space.1` need a map of type arena, there is none")]
    NoArena,
    #[error("extern `{name}`: {cause}")]
    Extern { name: String, cause: String },
    #[error("struct_ops variable `{name}`: {cause}")]
    StructOps { name: String, cause: String },
    #[error("variable `{name}` in section `{section}`: {cause}")]
    Variable {
        section: String,
        name: String,
        cause: String,
    },
}

/// What can be wrong with a map's definition.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum MapProblem {
    #[error("its definition is no struct but `{c_type}`")]
    NotAStruct { c_type: String },
    #[error("has no symbol in `.maps`")]
    NoSymbol,
    #[error("has no type")]
    NoType,
    #[error("unknown field `{field}`")]
    UnknownField { field: String },
    #[error("field `{field}`: expected {wanted}, found `{c_type}`")]
    Field {
        field: String,
        wanted: &'static str,
        c_type: String,
    },
    #[error("field `{field}` says {second}, but {first} was given before")]
    Conflict {
        field: &'static str,
        first: u64,
        second: u64,
    },
    #[error("field `values` must be the last one")]
    ValuesNotLast,
    #[error("a map inside of a map cannot have `{field}`")]
    Inner { field: String },
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Fields(#[from] FieldError),
    #[error("pinning is {value}, only 0 and 1 are known")]
    Pinning { value: u32 },
}

/// Why an object cannot be linked against a kernel.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum LinkError {
    #[error("{place}: {problem}")]
    Insn {
        place: Box<InsnPlace>,
        problem: Box<InsnProblem>,
    },
    #[error("{file}: program `{program}`: section name `{section}` stands for no program type")]
    UnknownProgType {
        file: String,
        program: String,
        section: String,
    },
    #[error("{file}: program `{program}` with all its functions is longer than {max} instructions")]
    ProgramTooLong {
        file: String,
        program: String,
        max: usize,
    },
    #[error("{file}: all programs together are longer than {max} instructions")]
    ObjectTooLong { file: String, max: usize },
    #[error("{file}: struct_ops variable `{name}` of type `{type_name}`: {problem}")]
    StructOps {
        file: String,
        name: String,
        type_name: String,
        problem: Box<StructOpsProblem>,
    },
    #[error(
        "{file}: globals in `.addr_space.1` need {need} bytes, arena `{arena}` has {available}"
    )]
    ArenaTooSmall {
        file: String,
        arena: String,
        need: u64,
        available: u64,
    },
}

/// What can be wrong with an instruction.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum InsnProblem {
    #[error("relocation {number} against `{symbol}`: {cause}")]
    Reloc {
        number: u32,
        symbol: String,
        cause: String,
    },
    #[error("instruction with code {code:#04x} and pseudo source {src} has no relocation")]
    Unrelocated { code: u8, src: u8 },
    #[error("offset {offset} is outside of the {size} bytes of map `{map}`")]
    MapOffset { map: String, offset: u64, size: u64 },
    #[error("configuration value `{name}`: {cause}")]
    Kconfig { name: String, cause: String },
    #[error("call of slot {target}, where no function begins")]
    CallTarget { target: i64 },
    #[error("kfunc `{name}` does not exist in this kernel")]
    NoKfunc { name: String },
    #[error("kfunc `{name}` is `{wanted}` in the object, but `{found}` in this kernel")]
    KfuncPrototype {
        name: String,
        wanted: String,
        found: String,
    },
    #[error("kernel variable `{name}` does not exist in this kernel")]
    NoKsym { name: String },
    #[error("kernel variable `{name}` is `{wanted}` in the object, but `{found}` in this kernel")]
    KsymType {
        name: String,
        wanted: String,
        found: String,
    },
    #[error("CO-RE relocation of {what}: {cause}")]
    CoRe { what: String, cause: CoReError },
}

/// Why a CO-RE relocation cannot be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum CoReError {
    #[error("kind {kind} is unknown")]
    UnknownKind { kind: u32 },
    #[error("access string `{access}` does not fit type {type_id}")]
    Access { access: String, type_id: TypeId },
    #[error("candidates {first} and {second} in the kernel disagree")]
    Ambiguous { first: TypeId, second: TypeId },
    #[error("instruction holds {found}, the relocation is for {expected}")]
    Mismatch { expected: u64, found: u64 },
    #[error("value {value} does not fit the instruction")]
    OutOfRange { value: u64 },
    #[error("instruction with code {code:#04x} cannot take one")]
    InsnClass { code: u8 },
    #[error("a bitfield lies across more than 8 bytes")]
    WideBitfield,
    #[error("comparing types takes too long: they are nested too deeply")]
    TooDeep,
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// What can be wrong with a struct_ops variable.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum StructOpsProblem {
    #[error("this kernel has no such type")]
    NoType,
    #[error("member `{member}` is set, but this kernel has no such member; it has {exists}")]
    NoMember { member: String, exists: String },
    #[error("member `{member}` is a bitfield, which is not supported")]
    Bitfield { member: String },
    #[error("member `{member}` is `{wanted}` in the object, but `{found}` in this kernel")]
    Mismatch {
        member: String,
        wanted: String,
        found: String,
    },
    #[error("member `{member}` points to `{program}`, which is no struct_ops program")]
    NotAProgram { member: String, program: String },
    #[error("program `{program}` is member `{first}` and member `{second}`: it can be one")]
    TwoMembers {
        program: String,
        first: String,
        second: String,
    },
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// Why a function cannot be taken as it stands in the file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum PlainError {
    #[error("no function `{name}`; there are {}", exists.join(", "))]
    NoFunction { name: String, exists: Vec<String> },
    #[error("function `{name}` has a relocation at instruction {insn}: it must be linked")]
    Relocated { name: String, insn: u32 },
}

/// Why a variable cannot be read or set.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum GlobalError {
    #[error("no global variable `{name}`; there are {}", exists.join(", "))]
    Unknown { name: String, exists: Vec<String> },
    #[error("`{path}`: {cause}")]
    Path { path: String, cause: PathError },
    #[error("`{path}` is `{c_type}`, it cannot be {value}")]
    Kind {
        path: String,
        c_type: String,
        value: String,
    },
    #[error("{value} does not fit `{path}`, a `{c_type}` of {bits} bits")]
    Range {
        path: String,
        value: String,
        c_type: String,
        bits: u32,
    },
    #[error("`{path}` is an extern: the kernel gives its value")]
    Extern { path: String },
    #[error("no map `{map}`; there are {}", exists.join(", "))]
    NoMap { map: String, exists: Vec<String> },
    #[error("no program `{program}`; there are {}", exists.join(", "))]
    NoProgram {
        program: String,
        exists: Vec<String>,
    },
}
