//! A test object in the running kernel, if that lets us: our loader against its BTF and its
//! verifier.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};

use harena_bpf::btf::{Btf, Kind};
use harena_bpf::isa::op::PseudoLoad;
use harena_bpf::{
    KconfigValue, KernelSymbols, KfuncRef, KsymVar, LinkedMap, LinkedObject, LinkedProgram,
    MapType, Object, isa,
};

use super::sys::{self, UserMapping};

/// Words of the context of test programs: `struct arena_ctx`.
pub const CONTEXT_WORDS: usize = 16;

const BTF_FILE: &str = "/sys/kernel/btf/vmlinux";

/// The running kernel's types; a kfunc's number is its BTF id.
#[derive(Debug)]
pub struct LiveSymbols {
    btf: Btf,
}

impl LiveSymbols {
    /// Or why there are none.
    pub fn read() -> Result<Self, String> {
        let bytes = std::fs::read(BTF_FILE).map_err(|error| format!("{BTF_FILE}: {error}"))?;
        let btf = Btf::parse(&bytes).map_err(|error| format!("{BTF_FILE}: {error}"))?;
        Ok(Self { btf })
    }
}

impl KernelSymbols for LiveSymbols {
    fn btf(&self) -> &Btf {
        &self.btf
    }

    fn kfunc(&self, name: &str) -> Option<KfuncRef> {
        let func = self.btf.find(name, Kind::Func)?;
        Some(KfuncRef {
            id: func.raw(),
            proto: func,
        })
    }

    fn ksym(&self, _name: &str) -> Option<KsymVar> {
        None
    }

    fn kconfig(&self, _name: &str) -> Option<KconfigValue> {
        None
    }
}

/// A test object loaded into the running kernel.
#[derive(Debug)]
pub struct LiveMachine {
    programs: BTreeMap<String, Result<OwnedFd, String>>,
    user: UserMapping,
    _arena: OwnedFd,
}

impl LiveMachine {
    /// Or why this kernel cannot be used at all.
    pub fn load(object: &[u8], symbols: &LiveSymbols) -> Result<Self, String> {
        let object = Object::parse("arena test", object).map_err(|error| error.to_string())?;
        let linked = object.link(symbols).map_err(|error| error.to_string())?;
        let map = arena_of(&linked);
        let arena = sys::create_arena(map.max_entries, map.map_flags, map.map_extra)
            .map_err(|error| format!("creating an arena: {error}"))?;
        let bytes = usize::try_from(map.max_entries).expect("small") * 4096;
        let user = UserMapping::new(&arena, map.map_extra, bytes)
            .map_err(|error| format!("mapping an arena: {error}"))?;
        for (word, offset) in map
            .contents
            .bytes
            .chunks(8)
            .zip((map.contents_offset..).step_by(8))
        {
            let mut padded = [0; 8];
            padded[..word.len()].copy_from_slice(word);
            user.write(offset, u64::from_le_bytes(padded));
        }
        let programs = linked
            .programs
            .iter()
            .map(|program| (program.name.clone(), load_program(program, &arena)))
            .collect();
        Ok(Self {
            programs,
            user,
            _arena: arena,
        })
    }

    /// What the verifier says of the programs it refused.
    pub fn refusals(&self) -> impl Iterator<Item = (&str, &str)> {
        self.programs
            .iter()
            .filter_map(|(name, program)| match program {
                Ok(_) => None,
                Err(log) => Some((name.as_str(), log.as_str())),
            })
    }

    /// Runs a program, which may change the context; `None` if this kernel refused it.
    pub fn run(&mut self, program: &str, context: &mut [u64; CONTEXT_WORDS]) -> Option<u32> {
        let program = self
            .programs
            .get(program)
            .expect("the object has this program");
        let program = program.as_ref().ok()?;
        let mut bytes: Vec<u8> = context.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let ret = sys::run(program, &mut bytes).expect("a loaded program runs");
        for (word, bytes) in context.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
        }
        Some(ret)
    }

    /// Writes a word from the user side.
    pub fn write(&mut self, offset: u64, value: u64) {
        self.user.write(offset, value);
    }

    /// Reads a word from the user side.
    pub fn read(&mut self, offset: u64) -> u64 {
        self.user.read(offset)
    }
}

/// The arena, which must be the only map: nothing else is created here.
fn arena_of(linked: &LinkedObject) -> &LinkedMap {
    let [map] = linked.maps.as_slice() else {
        panic!(
            "test objects have an arena and nothing else: {:?}",
            linked.maps
        );
    };
    assert_eq!(map.map_type, MapType::ARENA);
    map
}

/// Puts the arena's descriptor where the linker left the map's index.
fn load_program(program: &LinkedProgram, arena: &OwnedFd) -> Result<OwnedFd, String> {
    let mut insns = program.insns.clone();
    for insn in &mut insns {
        if let Some(PseudoLoad::Map | PseudoLoad::MapValue) = insn.pseudo_load() {
            assert_eq!(insn.imm, 0);
            insn.imm = arena.as_raw_fd();
        }
    }
    sys::load_syscall_program(&isa::encode(&insns), None)
}
