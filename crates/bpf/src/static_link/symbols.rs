//! Symbols of all files to one table: global ones by name, static ones each for itself.

use super::input::{Declared, Input};
use super::jump_tables::is_table;
use super::layout::Layout;
use super::{StaticLinkError, compare};
use crate::btf::TypeId;
use crate::elf::{Binding, Place, SectionNumber, Symbol, SymbolKind};
use object::elf::{STT_FILE, STT_SECTION, STV_DEFAULT, STV_HIDDEN};
use std::collections::BTreeMap;
use std::ops::Range;

/// Where a symbol of the result stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OutPlace {
    Undefined,
    Absolute,
    /// In the section with this index.
    In(usize),
}

/// A symbol of the result.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutSymbol<'a> {
    pub(super) name: &'a str,
    /// `st_type`
    pub(super) kind: u8,
    pub(super) binding: Binding,
    pub(super) visibility: u8,
    pub(super) place: OutPlace,
    pub(super) value: u64,
    pub(super) size: u64,
}

/// Which symbol of the result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SymbolRef {
    Local(usize),
    Global(usize),
}

/// Who gives a global symbol its meaning.
#[derive(Clone, Debug)]
struct Giver {
    file: usize,
    /// Whether it defines the symbol; otherwise it only declares it.
    is_defined: bool,
    is_weak: bool,
    /// Where it says that the symbol belongs.
    section: Option<String>,
    /// Place in the file, if defined.
    place: Option<(SectionNumber, Range<u64>)>,
    /// Whether its section is one that all files repeat.
    is_repeated: bool,
}

/// A global symbol.
#[derive(Clone, Debug)]
struct Global {
    giver: Giver,
    /// The `Var` or `Func` that stands for all of this name.
    declared: Option<(usize, TypeId)>,
}

/// All symbols of the result.
#[derive(Debug, Default)]
pub(super) struct Symbols<'a> {
    /// Steps left for comparing types.
    steps: u32,
    pub(super) locals: Vec<OutSymbol<'a>>,
    pub(super) globals: Vec<OutSymbol<'a>>,
    /// As long as `globals`.
    details: Vec<Global>,
    by_name: BTreeMap<&'a str, usize>,
    /// By file and number in it; `None` if left out.
    map: Vec<Vec<Option<SymbolRef>>>,
    /// By section of the result.
    section_symbols: BTreeMap<usize, SymbolRef>,
    /// What was defined and not chosen: first byte and end.
    losers: BTreeMap<(usize, SectionNumber), BTreeMap<u64, u64>>,
}

impl<'a> Symbols<'a> {
    pub(super) fn merge(
        inputs: &[Input<'a>],
        layout: &Layout<'_>,
    ) -> Result<Self, StaticLinkError> {
        let mut symbols = Self {
            steps: compare::STEPS_MAX,
            ..Self::default()
        };
        for (file, input) in inputs.iter().enumerate() {
            let mut map = Vec::new();
            for symbol in &input.elf.symbols {
                map.push(symbols.add(inputs, layout, file, symbol)?);
            }
            symbols.map.push(map);
        }
        Ok(symbols)
    }

    /// The symbol of the result that a file's symbol became.
    pub(super) fn get(&self, file: usize, number: usize) -> Option<SymbolRef> {
        *self.map.get(file)?.get(number)?
    }

    /// Its number in the table, where static ones come first, behind the null symbol.
    pub(super) fn number(&self, symbol: SymbolRef) -> usize {
        match symbol {
            SymbolRef::Local(index) => index.saturating_add(1),
            SymbolRef::Global(index) => {
                let first = self.locals.len().saturating_add(1);
                index.saturating_add(first)
            }
        }
    }

    /// The global symbol of this name, and the `Var` or `Func` that stands for it.
    pub(super) fn global(&self, name: &str) -> Option<(&OutSymbol<'a>, Option<(usize, TypeId)>)> {
        let index = *self.by_name.get(name)?;
        let details = self.details.get(index)?;
        Some((self.globals.get(index)?, details.declared))
    }

    /// Whether a byte of a file belongs to something that was not chosen.
    pub(super) fn is_lost(&self, file: usize, section: SectionNumber, offset: u64) -> bool {
        let ranges = self.losers.get(&(file, section));
        let range = ranges.and_then(|ranges| ranges.range(..=offset).next_back());
        range.is_some_and(|(_, end)| offset < *end)
    }

    fn add(
        &mut self,
        inputs: &[Input<'a>],
        layout: &Layout<'_>,
        file: usize,
        symbol: &Symbol<'a>,
    ) -> Result<Option<SymbolRef>, StaticLinkError> {
        let fail = |cause| StaticLinkError::Symbol {
            file: inputs.get(file).map_or("", |input| input.name).to_owned(),
            symbol: symbol.name.to_owned(),
            cause,
        };
        let piece = match symbol.place {
            Place::In(number) => match layout.piece(file, number) {
                Some(piece) => Some(piece),
                // It goes with its section.
                None => return Ok(None),
            },
            Place::Undefined | Place::Elsewhere => None,
        };
        if symbol.kind == SymbolKind::Section {
            let Some(piece) = piece else {
                return Ok(None);
            };
            if symbol.value != 0 {
                return Err(fail("it stands for a section, but not for its start"));
            }
            return Ok(Some(self.section_symbol(piece.section)));
        }
        if symbol.raw_kind == STT_FILE {
            return Ok(None);
        }
        let value = symbol
            .value
            .checked_add(piece.map_or(0, |piece| piece.offset));
        let new = OutSymbol {
            name: symbol.name,
            kind: symbol.raw_kind,
            binding: symbol.binding,
            visibility: symbol.visibility,
            place: match (symbol.place, piece) {
                (Place::In(_), Some(piece)) => OutPlace::In(piece.section),
                (Place::Elsewhere, _) => OutPlace::Absolute,
                (Place::In(_) | Place::Undefined, _) => OutPlace::Undefined,
            },
            value: value.ok_or_else(|| fail("it lies outside of its section"))?,
            size: symbol.size,
        };
        if symbol.binding == Binding::Local {
            // The null symbol, and what is none.
            if new.place == OutPlace::Undefined {
                return Ok(None);
            }
            self.locals.push(new);
            return Ok(Some(SymbolRef::Local(self.locals.len().saturating_sub(1))));
        }
        if symbol.name.is_empty() {
            return Err(fail("it is global, but has no name"));
        }
        if new.place == OutPlace::Absolute {
            return Err(fail("absolute and common symbols are not supported"));
        }
        if !matches!(symbol.visibility, STV_DEFAULT | STV_HIDDEN) {
            return Err(fail("it is neither hidden nor of default visibility"));
        }
        if inputs
            .get(file)
            .is_some_and(|input| is_table(input, symbol))
        {
            return Ok(Some(self.add_table(new)));
        }
        let giver = giver(inputs, layout, file, symbol);
        self.add_global(inputs, new, giver).map(Some)
    }

    fn section_symbol(&mut self, section: usize) -> SymbolRef {
        let next = SymbolRef::Local(self.locals.len());
        let symbol = *self.section_symbols.entry(section).or_insert(next);
        if symbol == next {
            self.locals.push(OutSymbol {
                name: "",
                kind: STT_SECTION,
                binding: Binding::Local,
                visibility: STV_DEFAULT,
                place: OutPlace::In(section),
                value: 0,
                size: 0,
            });
        }
        symbol
    }

    /// A jump table: every file calls them alike, and means its own.
    fn add_table(&mut self, new: OutSymbol<'a>) -> SymbolRef {
        let next = self.globals.len();
        self.globals.push(new);
        self.details.push(Global {
            giver: Giver {
                file: 0,
                is_defined: true,
                is_weak: false,
                section: None,
                place: None,
                is_repeated: false,
            },
            declared: None,
        });
        SymbolRef::Global(next)
    }

    fn add_global(
        &mut self,
        inputs: &[Input<'a>],
        new: OutSymbol<'a>,
        giver: Giver,
    ) -> Result<SymbolRef, StaticLinkError> {
        let next = self.globals.len();
        let declared = declared(inputs, &giver, new.name).map(|one| (giver.file, one.id));
        let index = *self.by_name.entry(new.name).or_insert(next);
        let known = self.globals.get_mut(index).zip(self.details.get_mut(index));
        let Some((symbol, details)) = known else {
            self.globals.push(new);
            self.details.push(Global { giver, declared });
            return Ok(SymbolRef::Global(next));
        };
        let mut steps = self.steps;
        check(inputs, new.name, details, (&giver, declared), &mut steps)?;
        self.steps = steps;
        symbol.visibility = symbol.visibility.max(new.visibility);
        if new.binding == Binding::Global {
            symbol.binding = Binding::Global;
        }
        let old = &details.giver;
        let is_chosen = match (old.is_defined, giver.is_defined) {
            (_, false) => false,
            (false, true) => true,
            (true, true) => old.is_weak && !giver.is_weak,
        };
        let lost = if is_chosen { &old.place } else { &giver.place };
        if let Some((section, range)) = lost {
            let file = if is_chosen { old.file } else { giver.file };
            let losers = self.losers.entry((file, *section)).or_default();
            losers.insert(range.start, range.end);
        }
        if is_chosen {
            symbol.kind = new.kind;
            (symbol.place, symbol.value, symbol.size) = (new.place, new.value, new.size);
            details.declared = declared.or(details.declared);
            details.giver = giver;
        } else if !old.is_defined && old.section.is_none() && giver.section.is_some() {
            // This one says more of an extern.
            details.declared = declared;
            details.giver = giver;
        } else {
            details.declared = details.declared.or(declared);
        }
        Ok(SymbolRef::Global(index))
    }
}

fn declared<'i>(inputs: &'i [Input<'_>], giver: &Giver, name: &str) -> Option<&'i Declared> {
    inputs.get(giver.file)?.declared.get(name)
}

fn giver(inputs: &[Input<'_>], layout: &Layout<'_>, file: usize, symbol: &Symbol<'_>) -> Giver {
    let input = inputs.get(file);
    let (section, place) = match symbol.place {
        Place::In(number) => {
            // Section numbers count from 1, the list from 0.
            let at = number.0.saturating_sub(1);
            let section = input.and_then(|input| input.elf.sections.get(at));
            let end = symbol.value.saturating_add(symbol.size);
            let section = section.map(|section| section.name.to_owned());
            (section, Some((number, symbol.value..end)))
        }
        Place::Undefined | Place::Elsewhere => {
            let declared = input.and_then(|input| input.declared.get(symbol.name));
            (declared.and_then(|one| one.section.clone()), None)
        }
    };
    let piece = place.as_ref();
    let piece = piece.and_then(|(number, _)| layout.piece(file, *number));
    Giver {
        file,
        is_defined: place.is_some(),
        is_weak: symbol.binding == Binding::Weak,
        section,
        is_repeated: piece.is_some_and(|piece| piece.is_repeated),
        place,
    }
}

/// Whether two symbols of one name can be one.
fn check(
    inputs: &[Input<'_>],
    name: &str,
    known: &Global,
    (new, declared): (&Giver, Option<(usize, TypeId)>),
    steps: &mut u32,
) -> Result<(), StaticLinkError> {
    let old = &known.giver;
    let file = |number: usize| inputs.get(number).map_or("", |input| input.name).to_owned();
    let both_defined = old.is_defined && new.is_defined;
    if both_defined && new.is_repeated {
        return Ok(());
    }
    if both_defined && !old.is_weak && !new.is_weak {
        return Err(StaticLinkError::Duplicate {
            symbol: name.to_owned(),
            first: file(old.file),
            second: file(new.file),
        });
    }
    let is_kept_apart = |section: &str| matches!(section, ".maps" | ".ksyms" | ".kconfig");
    if let (Some(first), Some(second)) = (&old.section, &new.section)
        && first != second
        && (!both_defined || is_kept_apart(first) || is_kept_apart(second))
    {
        return Err(StaticLinkError::Places {
            symbol: name.to_owned(),
            first: file(old.file),
            first_section: first.clone(),
            second: file(new.file),
            second_section: second.clone(),
        });
    }
    let (Some(first), Some(second)) = (known.declared, declared) else {
        return Ok(());
    };
    let (Some(first_input), Some(second_input)) = (inputs.get(first.0), inputs.get(second.0))
    else {
        return Ok(());
    };
    let (first, second) = ((&first_input.btf, first.1), (&second_input.btf, second.1));
    let is_map = [&old.section, &new.section].map(|section| section.as_deref() == Some(".maps"));
    let first_file = first_input.name.to_owned();
    let second_file = second_input.name.to_owned();
    if is_map.contains(&true) {
        return compare::maps(name, first, second, steps).map_err(|cause| StaticLinkError::Maps {
            map: name.to_owned(),
            first: first_file,
            second: second_file,
            cause,
        });
    }
    compare::types(first, second, steps).map_err(|cause| StaticLinkError::Types {
        first: first_file,
        first_type: compare::declaration(first, name),
        second: second_file,
        second_type: compare::declaration(second, name),
        cause,
    })
}
