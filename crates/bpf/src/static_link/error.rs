//! Why files do not become one.

use crate::error::ParseError;

/// Why files cannot be linked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum StaticLinkError {
    #[error("all files together have {size} bytes, at most {max} are supported")]
    TooLarge { size: u64, max: u64 },
    #[error("{file}")]
    Parse {
        file: String,
        #[source]
        cause: Box<ParseError>,
    },
    #[error("{file}: section `{section}`: {cause}")]
    Section {
        file: String,
        section: String,
        cause: String,
    },
    #[error("section `{section}` of {second} has other {what} than that of {first}")]
    Sections {
        section: String,
        first: String,
        second: String,
        what: &'static str,
    },
    #[error(
        "section `{section}` is {first_text:?} in {first}, but {second_text:?} in {second}: \
         they have to agree"
    )]
    Contents {
        section: String,
        first: String,
        first_text: String,
        second: String,
        second_text: String,
    },
    #[error("{file}: symbol `{symbol}`: {cause}")]
    Symbol {
        file: String,
        symbol: String,
        cause: &'static str,
    },
    #[error("`{symbol}` is defined in {first} and again in {second}, and neither is weak")]
    Duplicate {
        symbol: String,
        first: String,
        second: String,
    },
    #[error("`{first_type}` in {first} is `{second_type}` in {second}: {cause}")]
    Types {
        first: String,
        first_type: String,
        second: String,
        second_type: String,
        cause: String,
    },
    #[error("map `{map}` is not the same in {first} and in {second}: {cause}")]
    Maps {
        map: String,
        first: String,
        second: String,
        cause: String,
    },
    #[error(
        "`{symbol}` belongs to section `{first_section}` in {first}, but to `{second_section}` \
         in {second}"
    )]
    Places {
        symbol: String,
        first: String,
        first_section: String,
        second: String,
        second_section: String,
    },
    #[error("{file}: relocation {number} of section `{section}` at {offset:#x}: {cause}")]
    Reloc {
        file: String,
        section: String,
        number: u32,
        offset: u64,
        cause: String,
    },
    #[error("types of all files together: {cause}")]
    AllTypes { cause: String },
}
