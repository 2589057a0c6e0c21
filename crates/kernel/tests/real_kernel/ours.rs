//! Our engine with the simulated kernel's types, for `syscall` programs: no task, no time.

use std::collections::BTreeMap;
use std::ptr;

use harena_abi::KernAddr;
use harena_bpf::Object;
use harena_kernel::{Kernel, write_map_objects};
use harena_testkit::CONTEXT_WORDS;
use harena_vm::{NoKernel, ProgId, RunArgs, Vm, VmConfig};

use crate::scenarios::Machine;

/// A test object loaded into our engine.
pub(crate) struct OurMachine {
    vm: Vm,
    programs: BTreeMap<String, ProgId>,
    context: KernAddr,
    /// The arena's user mapping.
    user: *mut u64,
}

impl OurMachine {
    pub(crate) fn load(object: &[u8]) -> Self {
        let object = Object::parse("arena test", object).expect("our objects parse");
        let linked = object.link(&Kernel::new(1000)).expect("our objects link");
        let mut vm = Vm::new(VmConfig::new(1)).expect("a machine");
        let loaded = vm.load(&linked, &[]).expect("our objects load");
        write_map_objects(&vm, &loaded);
        let names = linked.programs.iter().map(|program| program.name.clone());
        let programs = names.zip(loaded.programs.iter().copied()).collect();
        let context = vm.alloc_args(CONTEXT_WORDS).expect("room for a context");
        let arena = linked
            .arena
            .and_then(|arena| loaded.map(arena))
            .expect("an arena");
        let user = vm
            .arena(arena)
            .expect("an arena")
            .map_user()
            .expect("a user mapping")
            .cast();
        Self {
            vm,
            programs,
            context,
            user,
        }
    }

    fn word(&self, offset: u64) -> *mut u64 {
        assert!(offset.is_multiple_of(8));
        self.user
            .wrapping_byte_add(usize::try_from(offset).expect("offsets are small"))
    }
}

impl Machine for OurMachine {
    fn run(&mut self, program: &str, context: &mut [u64; CONTEXT_WORDS]) -> Option<u32> {
        let program = *self
            .programs
            .get(program)
            .expect("the object has this program");
        self.vm
            .write_args(self.context, context)
            .expect("the context is ours");
        let result = self
            .vm
            .run(program, &RunArgs::new(self.context), &mut NoKernel);
        let ret = result.expect("test programs end").ret;
        for (word, offset) in context.iter_mut().zip((0u64..).step_by(8)) {
            let at = self
                .context
                .checked_add(offset)
                .expect("the context is ours");
            *word = self.vm.mem().read_u64(at).expect("the context is ours");
        }
        Some(u32::try_from(ret & 0xffff_ffff).expect("the low half"))
    }

    fn write(&mut self, offset: u64, value: u64) {
        // SAFETY: the word lies in the arena's user mapping, which the scenario's offsets stay
        // within; an empty page's first touch allocates it, in the fault handler.
        unsafe { ptr::write_volatile(self.word(offset), value) };
    }

    fn read(&mut self, offset: u64) -> u64 {
        // SAFETY: as in `write`.
        unsafe { ptr::read_volatile(self.word(offset)) }
    }
}
