//! libbpf, as what to compare our loader and our static linker with.
//!
//! libbpf relocates a program's instructions on its way to loading them, after a few calls of
//! `bpf(2)` that find out what the kernel knows; what it then holds is what is compared, whether
//! the rest succeeded or not. It takes a kernel's types from one place in the file system. A
//! thread with a mount namespace of its own puts others there, so that both loaders see the same
//! kernel.

use std::ffi::{CStr, CString, c_char, c_int};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;
use std::{ptr, slice, thread};

use harena_bpf::isa::Insn;
use libbpf_sys as sys;

/// Where libbpf looks for the running kernel's types.
const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";

/// What libbpf made of an object.
#[derive(Clone, Debug)]
pub struct Relocated {
    /// Programs by name, each with the functions it reaches.
    pub programs: Vec<(String, Vec<Insn>)>,
    /// Descriptors that stand for maps in instructions, with the maps' names.
    pub maps: Vec<(i32, String)>,
    /// Why it went no further than relocating, if it did not.
    pub problem: Option<String>,
}

/// libbpf prints warnings through one function of the process.
static PRINTING: Mutex<Option<File>> = Mutex::new(None);

/// Runs something in a thread for which `types`, a file of BTF, are the running kernel's.
///
/// # Errors
///
/// Why this process may not have a mount namespace.
pub fn with_kernel_types<T: Send>(
    types: &Path,
    run: impl FnOnce() -> T + Send,
) -> Result<T, String> {
    let types = c_string(types);
    let kernel_types = CString::new(KERNEL_TYPES).expect("no NUL");
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: this thread alone leaves the namespace it shares, and ends with this
            // closure.
            succeeded("unshare", unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
            mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE)?;
            mount(&types, &kernel_types, libc::MS_BIND)?;
            Ok(run())
        });
        thread.join().expect("the thread does not panic")
    })
}

fn mount(source: &CStr, target: &CStr, flags: libc::c_ulong) -> Result<(), String> {
    let no_type = ptr::null();
    // SAFETY: the strings end with NUL and live longer than the call; the others may be null.
    let ret = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            no_type,
            flags,
            ptr::null(),
        )
    };
    succeeded("mount", ret)
}

fn succeeded(what: &str, ret: c_int) -> Result<(), String> {
    if ret == 0 {
        return Ok(());
    }
    Err(format!("{what}: {}", io::Error::last_os_error()))
}

fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("paths have no NUL")
}

/// Has libbpf relocate the programs of an object, all of them, against the types in `types` (or
/// the running kernel's), with `kconfig` as the kernel's configuration.
///
/// # Errors
///
/// What libbpf says of an object that it does not open.
pub fn relocate(object: &[u8], types: Option<&Path>, kconfig: &str) -> Result<Relocated, String> {
    let types = types.map(c_string);
    let kconfig = CString::new(kconfig).expect("no NUL");
    let (result, warnings) = with_warnings(|| {
        let mut options = sys::bpf_object_open_opts {
            sz: size_of::<sys::bpf_object_open_opts>()
                .try_into()
                .expect("small"),
            object_name: c"object".as_ptr(),
            kconfig: kconfig.as_ptr(),
            ..Default::default()
        };
        if let Some(types) = &types {
            options.btf_custom_path = types.as_ptr();
        }
        // SAFETY: bytes and options live longer than the call, which copies what it keeps; the
        // path and the text, which it keeps pointers to, live longer than the object.
        let opened = unsafe {
            sys::bpf_object__open_mem(
                object.as_ptr().cast(),
                object.len() as u64,
                &raw const options,
            )
        };
        let object = ptr::NonNull::new(opened).map(Opened)?;
        object.load_all();
        // SAFETY: the object is open, and was not prepared before.
        let ret = unsafe { sys::bpf_object__prepare(object.0.as_ptr()) };
        Some((ret, object.programs(), object.maps()))
    });
    let Some((ret, programs, maps)) = result else {
        return Err(format!("libbpf does not open it: {warnings}"));
    };
    Ok(Relocated {
        programs,
        maps,
        problem: (ret != 0).then(|| format!("{ret}: {warnings}")),
    })
}

/// Whether a problem is that libbpf may not use `bpf(2)` here.
#[must_use]
pub fn is_refused(problem: &str) -> bool {
    problem.contains("bpf_object__probe_loading")
}

/// Links object files into one at `output`, as `bpftool gen object` does.
///
/// # Errors
///
/// What libbpf says of them.
pub fn link(inputs: &[&Path], output: &Path) -> Result<(), String> {
    let output = c_string(output);
    let (ret, warnings) = with_warnings(|| {
        // SAFETY: the path lives longer than the call; options may be null.
        let linker = unsafe { sys::bpf_linker__new(output.as_ptr(), ptr::null_mut()) };
        if linker.is_null() {
            return -1;
        }
        let mut ret = 0;
        for input in inputs.iter().map(|input| c_string(input)) {
            // SAFETY: the linker was made above and not freed; the path lives longer than the
            // call.
            ret = unsafe { sys::bpf_linker__add_file(linker, input.as_ptr(), ptr::null()) };
            if ret != 0 {
                break;
            }
        }
        if ret == 0 {
            // SAFETY: as above.
            ret = unsafe { sys::bpf_linker__finalize(linker) };
        }
        // SAFETY: as above, and nobody uses it afterwards.
        unsafe { sys::bpf_linker__free(linker) };
        ret
    });
    if ret == 0 {
        return Ok(());
    }
    Err(format!("{ret}: {warnings}"))
}

/// An open object, closed in the end.
struct Opened(ptr::NonNull<sys::bpf_object>);

impl Opened {
    /// The pointers that `next` gives, from the first.
    fn each<T>(&self, next: impl Fn(*mut sys::bpf_object, *mut T) -> *mut T) -> Vec<*mut T> {
        let mut all = Vec::new();
        let mut one = ptr::null_mut();
        loop {
            one = next(self.0.as_ptr(), one);
            if one.is_null() {
                return all;
            }
            all.push(one);
        }
    }

    fn each_program(&self) -> Vec<*mut sys::bpf_program> {
        // SAFETY: the object is open, and the other is null or one of its programs.
        self.each(|object, one| unsafe { sys::bpf_object__next_program(object, one) })
    }

    /// Programs that are loaded only on demand are loaded, too.
    fn load_all(&self) {
        for program in self.each_program() {
            // SAFETY: the program is the object's, which is open.
            unsafe { sys::bpf_program__set_autoload(program, true) };
        }
    }

    fn programs(&self) -> Vec<(String, Vec<Insn>)> {
        let programs = self.each_program().into_iter();
        programs
            .map(|program| {
                // SAFETY: the program is the object's, which is open.
                let name = unsafe { sys::bpf_program__name(program) };
                // SAFETY: as above.
                let insns = unsafe { sys::bpf_program__insns(program) };
                // SAFETY: as above.
                let count = unsafe { sys::bpf_program__insn_cnt(program) };
                let count = usize::try_from(count).expect("a count");
                // SAFETY: the program has so many instructions of eight bytes there, and they do
                // not change while the object is open.
                let bytes: &[[u8; 8]] = unsafe { slice::from_raw_parts(insns.cast(), count) };
                let insns = bytes.iter().map(|bytes| Insn::from_bytes(*bytes));
                (text(name), insns.collect())
            })
            .collect()
    }

    fn maps(&self) -> Vec<(i32, String)> {
        // SAFETY: the object is open, and the other is null or one of its maps.
        let maps = self.each(|object, one| unsafe { sys::bpf_object__next_map(object, one) });
        maps.into_iter()
            .map(|map| {
                // SAFETY: the map is the object's, which is open.
                let fd = unsafe { sys::bpf_map__fd(map) };
                // SAFETY: as above.
                (fd, text(unsafe { sys::bpf_map__name(map) }))
            })
            .collect()
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: the object is open, and nobody uses it afterwards.
        unsafe { sys::bpf_object__close(self.0.as_ptr()) };
    }
}

/// libbpf's own text.
fn text(name: *const c_char) -> String {
    // SAFETY: libbpf's names end with NUL and live as long as their object, which is open.
    let name = unsafe { CStr::from_ptr(name) };
    name.to_string_lossy().into_owned()
}

/// Runs something, and gives what libbpf warned of meanwhile.
fn with_warnings<T>(run: impl FnOnce() -> T) -> (T, String) {
    /// One at a time: the function that prints is the process's.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().expect("no test panicked in libbpf");
    *PRINTING.lock().expect("never held over a panic") = Some(memory_file());
    // SAFETY: the function keeps to what libbpf asks of it.
    unsafe { sys::libbpf_set_print(Some(print)) };
    let result = run();
    let file = PRINTING.lock().expect("never held over a panic").take();
    let mut warnings = String::new();
    let mut file = file.expect("it was put there above");
    file.seek(SeekFrom::Start(0)).expect("a file in memory");
    let read = file.read_to_string(&mut warnings);
    drop(read);
    (result, warnings)
}

fn memory_file() -> File {
    // SAFETY: the name ends with NUL and is copied.
    let fd = unsafe { libc::memfd_create(c"warnings".as_ptr(), 0) };
    assert!(fd >= 0, "no file in memory: {}", io::Error::last_os_error());
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    unsafe { File::from_raw_fd(fd) }
}

/// # Safety
///
/// 1. `arguments` are what `format` asks for.
unsafe extern "C" fn print(
    level: sys::libbpf_print_level,
    format: *const c_char,
    arguments: *mut sys::__va_list_tag,
) -> c_int {
    let file = PRINTING.lock().expect("never held over a panic");
    match &*file {
        // SAFETY: libbpf's format and arguments fit each other, and the file is open.
        Some(file) if level == sys::LIBBPF_WARN => unsafe {
            sys::vdprintf(file.as_raw_fd(), format, arguments)
        },
        Some(_) | None => 0,
    }
}
