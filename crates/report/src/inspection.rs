//! What an object holds and needs, as plain names and numbers.
//!
//! Everything that would stop the object from loading, or trap when reached, is in
//! `unsupported` with its reason; an empty list means that it loads. What would trap and is never
//! reached is in `absent`.

use std::fmt::{self, Write};

use serde::Serialize;

use crate::disassembly::Disassembly;
use crate::table::Table;
use crate::{escape, json, text, units};

/// One object file.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Inspection {
    /// Path of the object, or the name of an embedded one.
    pub object: String,
    /// Its `license` section.
    pub license: String,
    /// Ops tables (`struct_ops` variables).
    pub ops: Vec<OpsInfo>,
    /// Programs.
    pub programs: Vec<ProgramInfo>,
    /// Maps, global data included.
    pub maps: Vec<MapInfo>,
    /// Arenas.
    pub arenas: Vec<ArenaInfo>,
    /// Kernel functions it calls.
    pub kfuncs: Vec<ExternInfo>,
    /// Other externs: `.ksyms` variables and `.kconfig` values.
    pub externs: Vec<ExternInfo>,
    /// What does not work and why.
    pub unsupported: Vec<Unsupported>,
    /// What the kernel does not have and the programs ask for, but never reach.
    pub absent: Vec<Unsupported>,
    /// The programs' instructions, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Vec<Disassembly>>,
}

/// One ops table.
#[derive(Clone, Debug, Default, Serialize)]
pub struct OpsInfo {
    /// Its variable.
    pub variable: String,
    /// Its type, such as `sched_ext_ops`.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Members that are not programs and not zero.
    pub scalars: Vec<OpInfo>,
    /// Members that are programs.
    pub members: Vec<OpInfo>,
}

/// One member of an ops table.
#[derive(Clone, Debug, Default, Serialize)]
pub struct OpInfo {
    /// Its name.
    pub member: String,
    /// The program's name, or the scalar's value.
    pub value: String,
}

/// One program.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ProgramInfo {
    /// Its name.
    pub name: String,
    /// Its section.
    pub section: String,
    /// Its type, such as `struct_ops`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Instruction slots, subprograms included; unknown unless it could be linked.
    pub insns: Option<u64>,
    /// Whether it loads without being asked for.
    pub autoload: bool,
    /// Where it runs, if it is attached to something: `sched_switch`, `schedule is called`.
    pub fires: Option<String>,
    /// Why it never runs, if that is so.
    pub never_fires: Option<String>,
}

/// One map.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MapInfo {
    /// Its name.
    pub name: String,
    /// Its type, such as `array`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes of a key.
    pub key_size: u64,
    /// Bytes of a value.
    pub value_size: u64,
    /// Entries; pages for an arena.
    pub max_entries: u64,
    /// `map_flags`.
    pub flags: u64,
}

/// One arena.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ArenaInfo {
    /// Its map.
    pub map: String,
    /// Its size in pages.
    pub pages: u64,
    /// Where programs see it; 0 if the loader chooses.
    pub user_vm_start: u64,
    /// Bytes of `__arena` globals.
    pub globals_size: u64,
}

/// One name that the kernel must give.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ExternInfo {
    /// Its name.
    pub name: String,
    /// Whether it may be absent.
    pub weak: bool,
    /// Whether harena has it.
    pub resolved: bool,
}

/// One thing that does not work.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Unsupported {
    /// What: a program, map, relocation or extern, by name.
    pub what: String,
    /// Why, and what follows from it.
    pub why: String,
}

impl Inspection {
    /// For a person.
    #[must_use]
    pub fn to_text(&self) -> String {
        text(|out| self.write_text(out))
    }

    /// For a program.
    #[must_use]
    pub fn to_json(&self) -> String {
        json(self)
    }

    fn write_text(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "object      {}", escape(&self.object))?;
        writeln!(out, "license     {}", escape(&self.license))?;
        for ops in &self.ops {
            write_ops(out, ops)?;
        }
        self.write_programs(out)?;
        self.write_maps(out)?;
        for arena in &self.arenas {
            writeln!(
                out,
                "\narena       {}: {} pages, user_vm_start {:#x}, {} bytes of globals",
                escape(&arena.map),
                units::count(arena.pages),
                arena.user_vm_start,
                units::count(arena.globals_size),
            )?;
        }
        write_externs(out, "kfunc", &self.kfuncs)?;
        write_externs(out, "extern", &self.externs)?;
        for code in self.code.iter().flatten() {
            code.write_text(out)?;
        }
        if !self.absent.is_empty() {
            writeln!(out, "\nabsent, never reached: {}", self.absent.len())?;
            for a in &self.absent {
                writeln!(out, "  {}: {}", escape(&a.what), escape(&a.why))?;
            }
        }
        if self.unsupported.is_empty() {
            return writeln!(out, "\nunsupported none");
        }
        writeln!(out, "\nunsupported {}", self.unsupported.len())?;
        for u in &self.unsupported {
            writeln!(out, "  {}: {}", escape(&u.what), escape(&u.why))?;
        }
        Ok(())
    }

    fn write_programs(&self, out: &mut String) -> fmt::Result {
        let headings = ["program", "section", "type", "insns", "autoload", "fires"];
        let mut table = Table::new(3, &headings);
        for p in &self.programs {
            table.row(vec![
                escape(&p.name).into_owned(),
                escape(&p.section).into_owned(),
                escape(&p.kind).into_owned(),
                p.insns.map_or_else(|| "-".to_owned(), units::count),
                yes_no(p.autoload),
                match (&p.fires, &p.never_fires) {
                    (Some(at), _) => escape(at).into_owned(),
                    (None, Some(_)) => "never".to_owned(),
                    (None, None) => "-".to_owned(),
                },
            ]);
        }
        write!(out, "\n{table}")
    }

    fn write_maps(&self, out: &mut String) -> fmt::Result {
        if self.maps.is_empty() {
            return Ok(());
        }
        let mut table = Table::new(2, &["map", "type", "key", "value", "entries", "flags"]);
        for m in &self.maps {
            table.row(vec![
                escape(&m.name).into_owned(),
                escape(&m.kind).into_owned(),
                units::count(m.key_size),
                units::count(m.value_size),
                units::count(m.max_entries),
                format!("{:#x}", m.flags),
            ]);
        }
        write!(out, "\n{table}")
    }
}

fn write_ops(out: &mut String, ops: &OpsInfo) -> fmt::Result {
    writeln!(
        out,
        "\nops         {} (struct {})",
        escape(&ops.variable),
        escape(&ops.type_name)
    )?;
    let mut table = Table::new(2, &["member", "program or value"]);
    for op in ops.members.iter().chain(&ops.scalars) {
        table.row(vec![
            escape(&op.member).into_owned(),
            escape(&op.value).into_owned(),
        ]);
    }
    write!(out, "{table}")
}

fn write_externs(out: &mut String, title: &str, externs: &[ExternInfo]) -> fmt::Result {
    if externs.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(3, &[title, "binding", "resolved"]);
    for e in externs {
        table.row(vec![
            escape(&e.name).into_owned(),
            if e.weak { "weak" } else { "strong" }.to_owned(),
            yes_no(e.resolved),
        ]);
    }
    write!(out, "\n{table}")
}

fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}
