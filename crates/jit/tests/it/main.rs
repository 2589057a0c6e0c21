//! Goal: what machine code a program becomes, and that its tables fit it.
//! Method: golden disassembly, one case a file in `tests/disas`: BPF text, a line of dashes, and
//! what is expected. `HARENA_BLESS=1` writes the expectations anew.

use std::fmt::Write as _;
use std::path::Path;

use harena_bpf::analysis::{self, Arena, Base, Space};
use harena_bpf::code::{Code, OpCode, decode};
use harena_bpf::isa::{asm, disasm_one};
use harena_jit::{
    CodeImage, Compiler, Containment, Features, ProgramCode, Proof, Source, UserCast,
};
use iced_x86::{Decoder, DecoderOptions, Formatter as _, NasmFormatter};

const DASHES: &str = "--------\n";

/// What a case asks for besides its program, by words in its first line.
struct Case {
    text: String,
    has_arena: bool,
    is_proven: bool,
    whole: bool,
    is_masked: bool,
    features: Features,
}

impl Case {
    fn new(text: &str) -> Self {
        let header = text.lines().next().unwrap_or_default();
        Self {
            text: text.to_owned(),
            has_arena: header.contains("arena"),
            is_proven: header.contains("proven"),
            whole: header.contains("whole"),
            is_masked: header.contains("masked"),
            features: Features {
                bmi2: header.contains("bmi2"),
            },
        }
    }

    fn program(&self) -> String {
        let lines = self.text.lines().filter(|line| !line.starts_with('#'));
        lines.collect::<Vec<_>>().join("\n")
    }
}

fn compile(case: &Case) -> (Vec<String>, Code, ProgramCode, CodeImage) {
    let insns = asm(&case.program()).unwrap_or_else(|error| panic!("{error}"));
    let mut code = decode(&insns).expect("known instructions");
    let calls = code.ops.iter().filter(|op| op.code == OpCode::CallFunction);
    let mut functions: Vec<u32> = calls.map(|op| op.off.cast_unsigned()).collect();
    functions.push(0);
    functions.sort_unstable();
    functions.dedup();
    if case.has_arena {
        analysis::mark(&mut code.ops, &functions, &[0], &[]);
    }
    if case.is_masked && !case.has_arena {
        for op in &mut code.ops {
            op.space = Space::Kernel;
        }
    }
    let proofs = if case.is_proven {
        proofs(&code, &functions)
    } else {
        Vec::new()
    };
    let mut compiler = Compiler::new(case.features);
    let program = compiler.add(&Source {
        functions: &functions,
        proofs: &proofs,
        arena: case.has_arena.then_some(UserCast::AddHigh),
        containment: if case.is_masked {
            Containment::Mask
        } else {
            Containment::Check
        },
        ..Source::new(&code.ops)
    });
    let image = compiler.finish().expect("small enough");
    let names =
        (0..insns.len()).map(|slot| disasm_one(&insns[slot..]).map_or(String::new(), |d| d.text));
    (names.collect(), code, program, image)
}

/// Every context and every constant address is good.
fn proofs(code: &Code, functions: &[u32]) -> Vec<Proof> {
    let blocks = analysis::blocks(&code.ops, functions, Arena::None);
    let bases = analysis::bases(&code.ops, &blocks, functions);
    let proofs = bases.into_iter().map(|base| match base {
        Base::Unknown => Proof::None,
        Base::Frame(off) => Proof::Frame(i32::try_from(off).expect("small")),
        Base::Context(_) | Base::Address(_) => Proof::Heap,
    });
    proofs.collect()
}

/// The machine code, with each operation in front of what it became.
fn listing(case: &Case) -> String {
    let (names, _, program, image) = compile(case);
    let (start, end) = if case.whole {
        (program.entry, program.end)
    } else {
        (program.function(0).expect("it has one"), program.shared)
    };
    let bytes = &image.bytes[start as usize..end as usize];
    let mut decoder = Decoder::with_ip(64, bytes, start.into(), DecoderOptions::NONE);
    let mut formatter = NasmFormatter::new();
    formatter.options_mut().set_first_operand_char_index(8);
    let mut text = String::new();
    while decoder.can_decode() {
        let insn = decoder.decode();
        assert!(!insn.is_invalid(), "at {:#x}", insn.ip());
        for line in image
            .lines
            .iter()
            .filter(|l| u64::from(l.offset) == insn.ip())
        {
            let name = names.get(line.slot as usize).map_or("end", String::as_str);
            writeln!(text, "; {}: {name}", line.slot).expect("a string");
        }
        let mut operands = String::new();
        formatter.format(&insn, &mut operands);
        let at = u32::try_from(insn.ip()).expect("small");
        let fault = image.faults.iter().find(|fault| fault.fault_pc == at);
        let fault = fault.map_or(String::new(), |fault| {
            let zero = fault
                .zero_reg
                .map_or(String::new(), |reg| format!(", r{reg} = 0"));
            format!(" ; faults to {:x}{zero}", fault.resume_pc)
        });
        writeln!(text, "{at:6x}  {operands}{fault}").expect("a string");
    }
    text
}

#[test]
fn programs_become_the_expected_code() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/disas");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort();
    assert!(files.len() >= 6, "{} cases", files.len());
    let bless = std::env::var_os("HARENA_BLESS").is_some();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("readable");
        let (input, expected) = text.split_once(DASHES).unwrap_or((&text, ""));
        let found = listing(&Case::new(input));
        if bless {
            std::fs::write(&file, format!("{input}{DASHES}{found}")).expect("writable");
            continue;
        }
        assert!(found == expected, "{}:\n{found}", file.display());
    }
}

#[test]
fn tables_fit_the_code() {
    let text = "# arena
        r1 = addr_space_cast(r1, 0, 1); r0 = *(u64 *)(r1 + 8); *(u8 *)(r1 + 0) = 1
        call f; exit; f: r0 = *(s32 *)(r1 + 4); exit";
    let (_, code, program, image) = compile(&Case::new(text));
    assert!(image.faults.is_sorted_by_key(|fault| fault.fault_pc));
    assert_eq!(image.faults.len(), 3);
    for fault in &image.faults {
        assert!(fault.resume_pc > fault.fault_pc);
        assert!(fault.resume_pc < program.shared);
    }
    let zeroed: Vec<_> = image.faults.iter().map(|fault| fault.zero_reg).collect();
    assert_eq!(zeroed, [Some(0), None, Some(0)]);
    assert!(image.lines.is_sorted_by_key(|line| line.offset));
    for slot in 0..code.ops.len() {
        assert!(
            image.lines.iter().any(|line| line.slot as usize == slot),
            "{slot}"
        );
    }
    assert_eq!(program.functions.len(), 2);
    assert_eq!(program.function(1), None);
}

#[test]
fn equal_programs_become_equal_code() {
    let case = Case::new("r0 = 1; r0 += r1; exit");
    assert_eq!(compile(&case).3, compile(&case).3);
}

#[test]
fn code_needs_few_bytes_per_instruction() {
    // Growth is a matter of cache lines: straight-line arithmetic, and unproven loads.
    for (text, max) in [("r1 += r2\n", 3), ("r2 = *(u64 *)(r1 + 8)\n", 70)] {
        let program = format!("{}exit", text.repeat(100));
        let (_, _, program, _) = compile(&Case::new(&program));
        let start = program.function(0).expect("it has one");
        let size = (program.shared - start) / 100;
        assert!(size <= max + 1, "{text}: {size} bytes");
    }
}
