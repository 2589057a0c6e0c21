//! Several object files to one, before any kernel is known: what libbpf's static linker does.
//!
//! ```text
//! files ─► Input (parsed) ─► Layout (sections appended) ─► Symbols (by name) ─► types, relocs
//!                                                           one relocatable file ◄─ write
//! ```
//!
//! Rules, as in libbpf (`tools/lib/bpf/linker.c`):
//!
//! | of two global symbols | |
//! |---|---|
//! | strong and strong | refused |
//! | strong and weak | the strong one; what the weak one named stays, without a name |
//! | weak and weak | the first |
//! | defined and extern | the defined one, if types (of maps: definitions) are equal |
//! | extern and extern | one extern, weak if both are |
//!
//! Jump tables (`gotox`) stay each function's own: they never join, whatever they are called, and
//! their entries, bytes of the section that the function is in, move with that.
//!
//! Hidden symbols join like others, and whatever joins a hidden one is hidden; static ones never
//! join. Sections of one name are appended, but `license` and `version` have to be equal.
//! Different from libbpf: order of files never decides whether symbols conflict, files without
//! BTF are taken, and relocations in data that was not chosen go. libbpf 1.7 leaves entries of jump
//! tables as they are, so that those of a second file lead into the first one's functions.

mod compare;
mod error;
mod ext;
mod input;
mod jump_tables;
mod layout;
mod relocs;
mod symbols;
mod types;
mod write;

pub use error::StaticLinkError;

use input::Input;
use layout::Layout;
use symbols::Symbols;

/// Bytes of all files together.
const TOTAL_MAX: u64 = 1 << 30;

/// A file to link.
#[derive(Clone, Copy, Debug)]
pub struct ObjectFile<'a> {
    /// Its name, used in messages only.
    pub name: &'a str,
    /// Its contents.
    pub bytes: &'a [u8],
}

/// Links object files to one, whose bytes are returned: a relocatable file like any other, which
/// may still have externs that no file defines.
///
/// ```no_run
/// use harena_bpf::{Object, ObjectFile, link_objects};
///
/// fn load(names: &[&str]) -> Result<Object, Box<dyn std::error::Error>> {
///     let files: Vec<_> = names.iter().map(std::fs::read).collect::<Result<_, _>>()?;
///     let named = names.iter().zip(&files);
///     let named: Vec<_> = named.map(|(name, bytes)| ObjectFile { name, bytes }).collect();
///     Ok(Object::parse("all.bpf.o", &link_objects(&named)?)?)
/// }
/// ```
///
/// # Panics
///
/// If there are no files.
pub fn link_objects(files: &[ObjectFile<'_>]) -> Result<Vec<u8>, StaticLinkError> {
    assert!(!files.is_empty(), "there must be something to link");
    let sizes = files.iter().map(|file| file.bytes.len());
    let size = sizes.fold(0usize, usize::saturating_add);
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    if size > TOTAL_MAX {
        let max = TOTAL_MAX;
        return Err(StaticLinkError::TooLarge { size, max });
    }
    let inputs = files.iter().map(Input::parse);
    let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    let mut layout = Layout::new(&inputs)?;
    let symbols = Symbols::merge(&inputs, &layout)?;
    let relocs = relocs::rebase(&inputs, &mut layout, &symbols)?;
    jump_tables::rebase(&inputs, &mut layout)?;
    let types = types::merge(&inputs, &layout, &symbols)?;
    Ok(write::write(&layout, &symbols, &relocs, &types))
}
