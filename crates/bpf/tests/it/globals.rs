//! Reading and setting globals by their BTF names.

use crate::objects::{OBJECTS, SCHED};
use harena_bpf::{GlobalValue, Object};

fn set(object: &mut Object, path: &str, text: &str) -> String {
    match object.set_global(path, &GlobalValue::from_text(text)) {
        Ok(()) => object.global_value(path).unwrap().to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_kind_of_scalar_can_be_set_and_read_back() {
    let mut object = Object::parse("objects.bpf.o", OBJECTS).unwrap();
    let mut check = |path: &str, text: &str, expected: &str| {
        assert_eq!(set(&mut object, path, text), expected, "{path}");
    };
    check("slice_ns", "5000000", "5000000");
    check("slice_ns", "0xffffffffffffffff", "18446744073709551615");
    check("verbose", "true", "true");
    check("mode", "MODE_NEGATIVE", "MODE_NEGATIVE");
    check("mode", "7", "MODE_FAST");
    check("label", "fifteen letters", "\"fifteen letters\"");
    check("label", "short", "\"short\"");
    check("topo[1].nr_cpus", "64", "64");
    check("topo[1].smt", "1", "true");
    check("topo[1].high", "31", "31");
    check("topo[1].low", "5", "5");
    check("topo[1].high", "9", "9");
    check("topo[1].parts[2]", "65535", "65535");
    check("counters[7]", "1", "1");
    check("hidden_too", "44", "44");
    let topo = object.global_value("topo[1]").unwrap().to_string();
    insta::assert_snapshot!(topo);
    assert_eq!(object.global_value("hidden").unwrap().to_string(), "42");
}

#[test]
fn arena_globals_and_ops_settings_can_be_set() {
    let mut object = Object::parse("sched.bpf.o", SCHED).unwrap();
    assert_eq!(set(&mut object, "pages_used", "9"), "9");
    assert_eq!(set(&mut object, "head.value", "3"), "3");
    assert_eq!(set(&mut object, "fix_ops.timeout_ms", "1234"), "1234");
    assert_eq!(set(&mut object, "fix_ops.name", "other"), "\"other\"");
    let info = object.global_info("head.value").unwrap();
    assert_eq!((info.section.as_str(), info.size), ("arena", 8));
}

#[test]
fn constants_are_filled_by_prefix() {
    let mut object = Object::parse("objects.bpf.o", OBJECTS).unwrap();
    let lookup = |name: &str| (name == "SCX_DSQ_LOCAL").then_some(1 << 63);
    let unknown = object.fill_constants("__", lookup).unwrap();
    assert_eq!(unknown, ["__SCX_RQ_GONE"]);
    let value = object.global_value("__SCX_DSQ_LOCAL").unwrap().to_string();
    assert_eq!(value, (1u64 << 63).to_string());
}

#[test]
fn errors_name_what_is_wrong_and_what_there_is() {
    let mut said: Vec<String> = Vec::new();
    let mut object = Object::parse("objects.bpf.o", OBJECTS).unwrap();
    let mut error = |path: &str, text: &str| set(&mut object, path, text);
    said.push(error("slice", "1"));
    said.push(error("nothing_like_it", "1"));
    said.push(error("topo[0].cpus", "1"));
    said.push(error("topo[2].smt", "1"));
    said.push(error("topo", "1"));
    said.push(error("slice_ns.x", "1"));
    said.push(error("slice_ns[0]", "1"));
    said.push(error("slice_ns", "-1"));
    said.push(error("verbose", "2"));
    said.push(error("slice_ns", "fast"));
    said.push(error("mode", "MODE_SLOW"));
    said.push(error("label", "sixteen letters!"));
    said.push(error("topo[0].high", "32"));
    said.push(error("topo[x]", "32"));
    said.push(error("CONFIG_SMP", "1"));
    insta::assert_snapshot!(said.join("\n"));
}
