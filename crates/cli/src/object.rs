//! An object and what the command line changes in it.

use anyhow::Context;
use harena_bpf::Object;
use harena_kernel::LoadOptions;

use crate::plan::{Execution, Setting, Source};

/// What `--set ops.…` stands for, whatever the object calls its ops table.
const OPS: &str = "ops.";

/// Parses the object in `source`.
pub(crate) fn parse(source: &Source) -> anyhow::Result<Object> {
    Object::parse(&source.name, &source.bytes).with_context(|| format!("object `{}`", source.name))
}

/// How the object is loaded to be executed so: settings have the names that it has for what
/// they name.
pub(crate) fn options(object: &Object, execution: &Execution) -> LoadOptions {
    let named = |setting: &Setting| (path(object, &setting.name), setting.value.clone());
    LoadOptions {
        sets: execution.settings.iter().map(named).collect(),
        engine: execution.engine,
        containment: execution.containment,
        ..LoadOptions::default()
    }
}

/// The variable that a setting names: `ops.` is the object's first ops table, unless it
/// has a variable of that name.
fn path(object: &Object, name: &str) -> String {
    let table = object.struct_ops().next().map(|(variable, _type)| variable);
    match (name.strip_prefix(OPS), table) {
        (Some(member), Some(table)) if !object.globals().any(|global| global == "ops") => {
            format!("{table}.{member}")
        }
        _ => name.to_owned(),
    }
}
