//! An object in a machine of one CPU, with no scheduler made of it.

use harena_bpf::{LinkedObject, LinkedProgram, Object};
use harena_vm::{Loaded, ProgId, StreamId, Vm};

use crate::btf::Kernel;
use crate::kfuncs::descs;
use crate::load::{LoadError, LoadOptions, machine, prepare};
use crate::map_objects::write_map_objects;
use crate::scheduler::drain_streams;

/// An object's maps and programs, linked and loaded as for a run.
#[derive(Debug)]
pub struct LoadedObject {
    pub(crate) vm: Vm,
    linked: LinkedObject,
    loaded: Loaded,
}

impl LoadedObject {
    /// Loads an object.
    pub fn load(mut object: Object, options: &LoadOptions) -> Result<Self, LoadError> {
        prepare(&mut object, options)?;
        let linked = object.link(&Kernel::new(options.hz))?;
        let mut vm = machine(1, options)?;
        let loaded = vm.load(&linked, &descs())?;
        write_map_objects(&vm, &loaded);
        Ok(Self { vm, linked, loaded })
    }

    /// The machine, with maps, programs, violations and counts.
    #[must_use]
    pub const fn vm(&self) -> &Vm {
        &self.vm
    }

    /// What was loaded.
    #[must_use]
    pub const fn linked(&self) -> &LinkedObject {
        &self.linked
    }

    /// Its programs as they were linked, and their numbers in the machine.
    pub fn programs(&self) -> impl Iterator<Item = (&LinkedProgram, ProgId)> {
        let numbers = self.loaded.programs.iter().copied();
        self.linked.programs.iter().zip(numbers)
    }

    /// Takes what programs wrote to a stream: program name and text, in the object's order.
    pub fn drain_streams(&mut self, stream: StreamId) -> Vec<(String, String)> {
        drain_streams(&mut self.vm, &self.loaded, stream)
    }

    /// Takes what programs wrote with `bpf_printk`.
    pub fn drain_trace(&mut self) -> String {
        self.vm.drain_trace()
    }
}
