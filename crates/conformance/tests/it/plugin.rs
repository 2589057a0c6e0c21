//! The built plugin, started as the conformance tests start it.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::process::{Command, Stdio};

use harena_bpf::isa::{asm, encode};

use crate::case::{self, Case, Expected};
use crate::elf_writer::{self, FUNC, Section};

/// Exit code, standard output, standard error.
type End = (i32, String, String);

fn plugin(arguments: &[&str], input: &str) -> End {
    let mut child = Command::new(env!("CARGO_BIN_EXE_harena-conformance"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the plugin starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    match stdin.write_all(input.as_bytes()) {
        // With a usage error nobody reads.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        written => written.expect("the plugin reads"),
    }
    drop(stdin);
    let output = child.wait_with_output().expect("the child is ours");
    (
        output.status.code().expect("no signal ends the plugin"),
        String::from_utf8(output.stdout).expect("it prints text"),
        String::from_utf8(output.stderr).expect("it prints text"),
    )
}

/// Bytes as the conformance tests write them.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}  ").expect("a string takes it");
        text
    })
}

/// A program as the conformance tests write it.
fn line(program: &[u8]) -> String {
    format!("{}\n", hex(program))
}

fn end_of(case: &Case, options: &[&str]) -> End {
    let memory = hex(&case.memory);
    let mut arguments = options.to_vec();
    if !memory.is_empty() {
        arguments.insert(0, &memory);
    }
    plugin(&arguments, &line(&case.program()))
}

fn text(program: &str) -> Vec<u8> {
    encode(&asm(program).unwrap())
}

const OPTIONS: [&[&str]; 4] = [
    &[],
    &["--engine", "interp"],
    &["--engine", "jit", "--checked"],
    &["--engine", "interp", "--checked"],
];

#[test]
fn a_handful_of_cases_comes_to_what_they_say() {
    for name in [
        "add64-k",
        "sdiv64-intmin",
        "mem-length",
        "call-helper-5",
        "call-local",
        "lock-fetch-add64",
        "error-unknown-helper",
        "error-wild-load",
    ] {
        let case = case::named(name);
        let expected = match &case.expected {
            Expected::Result(r0) => (0, format!("{r0:x}\n"), String::new()),
            Expected::Error(message) => (1, String::new(), format!("{message}\n")),
        };
        for options in OPTIONS {
            assert_eq!(end_of(&case, options), expected, "{name} with {options:?}");
        }
    }
}

#[test]
fn a_program_may_be_an_argument() {
    let program = hex(&text("r0 = *(u8 *)(r1 + 1); exit"));
    let found = plugin(
        &["--program", &program, "0a  0b  ", "--engine", "interp"],
        "",
    );
    assert_eq!(found, (0, "b\n".to_owned(), String::new()));
}

#[test]
fn arguments_may_be_empty() {
    let found = plugin(&["", "--engine", "jit", ""], &line(&text("r0 = r2; exit")));
    assert_eq!(found, (0, "0\n".to_owned(), String::new()));
}

/// An object as the conformance tests make it: one function is all of the code.
fn object(name: &str, program: &str) -> Vec<u8> {
    let code = text(program);
    let len = code.len() as u64;
    elf_writer::write(&[Section::code(".text", code)], &[(name, FUNC, 1, 0, len)])
}

#[test]
fn an_object_runs_its_main() {
    let program = "call +1; exit; r0 = *(u16 *)(r1 + 0); exit";
    for engine in ["jit", "interp"] {
        let arguments = ["34  12  ", "--engine", engine, "--elf"];
        let found = plugin(&arguments, &line(&object("main", program)));
        assert_eq!(found, (0, "1234\n".to_owned(), String::new()));
    }
}

#[test]
fn objects_that_cannot_be_run_are_refused() {
    let refused = |bytes: &[u8], message: &str| {
        let expected = (1, String::new(), format!("{message}\n"));
        assert_eq!(plugin(&["--elf"], &line(bytes)), expected);
    };
    refused(
        &object("other", "exit"),
        "no function `main`; there are other",
    );
    refused(&text("exit"), "not an ELF file");
    refused(
        b"\x7fELF\x02\x01",
        "ELF header: Invalid ELF header size or alignment",
    );
    let relocated = elf_writer::write(
        &[
            Section::code(".text", text("r0 = 0; r1 = 0 ll; exit")),
            Section {
                name: ".rel.text".to_owned(),
                kind: 9,
                data: [8u64.to_le_bytes(), (1u64 << 32 | 1).to_le_bytes()].concat(),
                link: 3,
                info: 1,
                ..Section::default()
            },
        ],
        &[("main", FUNC, 1, 0, 32)],
    );
    let message = "function `main` has a relocation at instruction 1: it must be linked";
    refused(&relocated, message);
}

#[test]
fn bad_input_is_refused() {
    let refused = |arguments: &[&str], input: &str, code: i32, message: &str| {
        let expected = (code, String::new(), format!("{message}\n"));
        assert_eq!(plugin(arguments, input), expected);
    };
    refused(&[], "", 2, "there is no program");
    refused(&[], " \n", 2, "there is no program");
    let half = "the program: 3 hexadecimal digits are no whole number of bytes";
    refused(&[], "950\n", 2, half);
    let digit = "the program: `x` at position 1 is no hexadecimal digit";
    refused(&["--program", "0x95"], "", 2, digit);
    let digit = "the memory: `q` at position 0 is no hexadecimal digit";
    refused(&["q"], &line(&text("exit")), 2, digit);
    let slots = "9 bytes are no whole number of 8-byte instructions";
    refused(&[], "95 00 00 00 00 00 00 00 00", 1, slots);
}

#[test]
fn usage_errors_end_with_2() {
    for arguments in [
        &["--engine", "fast"][..],
        &["--jit"],
        &["00", "00"],
        &["--program"],
    ] {
        let (code, stdout, stderr) = plugin(arguments, "");
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(stderr.starts_with("error: "), "{stderr}");
    }
}

#[test]
fn no_bytes_make_it_panic() {
    let mut state = 0x5eed_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state >> 33
    };
    for round in 0..60 {
        let len = if round % 3 == 0 {
            next() % 90
        } else {
            next() % 12 * 8
        };
        let bytes: Vec<u8> = (0..len).map(|_| next().to_le_bytes()[0]).collect();
        let options = [&[][..], &["--engine", "interp"], &["--elf"]];
        let options = options[usize::try_from(round % 3).unwrap()];
        let (code, _, stderr) = plugin(options, &line(&bytes));
        assert!(code <= 2, "{code}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}
