//! Writes ELF files, also such as no compiler would.

/// A section to write.
#[derive(Clone, Default)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) kind: u32,
    pub(crate) flags: u64,
    pub(crate) data: Vec<u8>,
    pub(crate) link: u32,
    pub(crate) info: u32,
}

impl Section {
    pub(crate) fn code(name: &str, data: Vec<u8>) -> Self {
        Self {
            name: name.to_owned(),
            kind: 1,
            flags: 6,
            data,
            ..Self::default()
        }
    }

    pub(crate) fn data(name: &str, data: Vec<u8>) -> Self {
        Self {
            flags: 3,
            ..Self::code(name, data)
        }
    }
}

/// A symbol: name, `st_info`, section number, value, size.
pub(crate) type Symbol<'a> = (&'a str, u8, u16, u64, u64);

/// `st_info` of a global function and of a global object.
pub(crate) const FUNC: u8 = 0x12;
pub(crate) const OBJECT: u8 = 0x11;

/// A file with these sections (numbered from 1), a symbol table and the string tables.
pub(crate) fn write(sections: &[Section], symbols: &[Symbol<'_>]) -> Vec<u8> {
    let mut strings = vec![0u8];
    let mut intern = |text: &str| {
        let at = u32::try_from(strings.len()).unwrap();
        strings.extend(text.as_bytes());
        strings.push(0);
        at
    };
    let mut symtab = vec![0u8; 24];
    for (name, info, section, value, size) in symbols {
        symtab.extend(intern(name).to_le_bytes());
        symtab.extend([*info, 0]);
        symtab.extend(section.to_le_bytes());
        symtab.extend(value.to_le_bytes());
        symtab.extend(size.to_le_bytes());
    }
    let count = u32::try_from(sections.len()).unwrap();
    let mut all = sections.to_vec();
    all.push(Section {
        name: ".symtab".to_owned(),
        kind: 2,
        data: symtab,
        link: count + 2,
        info: 1,
        ..Section::default()
    });
    all.push(Section {
        name: ".strtab".to_owned(),
        kind: 3,
        ..Section::default()
    });
    let names: Vec<u32> = all.iter().map(|section| intern(&section.name)).collect();
    all.last_mut().unwrap().data = strings;

    let mut body: Vec<u8> = Vec::new();
    let mut headers = vec![0u8; 64];
    for (section, name) in all.iter().zip(names) {
        let entry_size: u64 = match section.kind {
            2 => 24,
            9 => 16,
            _ => 0,
        };
        headers.extend(name.to_le_bytes());
        headers.extend(section.kind.to_le_bytes());
        let offset = 64 + body.len() as u64;
        for word in [section.flags, 0, offset, section.data.len() as u64] {
            headers.extend(word.to_le_bytes());
        }
        headers.extend(section.link.to_le_bytes());
        headers.extend(section.info.to_le_bytes());
        headers.extend(8u64.to_le_bytes());
        headers.extend(entry_size.to_le_bytes());
        body.extend(&section.data);
    }
    let total = count + 3;
    let (number, names_at) = match u16::try_from(total) {
        Ok(total) if total < 0xff00 => (total, total - 1),
        _ => {
            // Too many for the header: the null section says how many and which.
            headers[32..40].copy_from_slice(&u64::from(total).to_le_bytes());
            headers[40..44].copy_from_slice(&(total - 1).to_le_bytes());
            (0, 0xffff)
        }
    };
    let mut file = file_header(64 + body.len() as u64, number, names_at);
    file.extend(body);
    file.extend(headers);
    file
}

/// The ELF header: where the section headers are, how many, which has their names.
fn file_header(headers_at: u64, number: u16, names_at: u16) -> Vec<u8> {
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend([1, 0, 247, 0, 1, 0, 0, 0]);
    for word in [0, 0, headers_at] {
        file.extend(u64::to_le_bytes(word));
    }
    file.extend([0; 4]);
    for half in [64, 0, 0, 64, number, names_at] {
        file.extend(u16::to_le_bytes(half));
    }
    file
}
