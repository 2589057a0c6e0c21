//! Kfuncs: the engine's own, and the way to the host's.
//!
//! The engine provides what needs nothing but memory and the running program: arena
//! pages, iterators over numbers and bits, streams, RCU and preemption marks, resilient locks,
//! dynptrs, strings, objects of a program's own types with their lists and trees.

use std::sync::Arc;

use harena_abi::{ArenaOffset, Errno, KernAddr, PAGE_SIZE, PageIndex, UserAddr};
use harena_arena::Arena;
use harena_bpf::SpecialKind;

use crate::error::{Abort, AbortCause};
use crate::exec::{self, Entry};
use crate::held::{self, Effect, Object, Rules, Watched};
use crate::helpers::{Answer, Ctx, Fail, answer, check_lock, dynptr, rules, stream_vprintk};
use crate::host::{Call, ContextSet, Host, KfuncArg, KfuncDesc, Sleepable};
use crate::program::{ProgId, Program};
use crate::vm::Vm;

mod bits;
mod graph;
mod objects;
mod slab;
mod strings;
pub(crate) mod user;

pub(crate) use bits::Bits;

/// First number of the engine's own kfuncs; a host's lie below.
pub const GENERIC_KFUNC_BASE: u32 = 1 << 24;

type KfuncFn = fn(&mut Ctx<'_>, [u64; 5]) -> Answer;

macro_rules! generic_kfuncs {
    ($($name:ident $call:expr, $proto:literal $(, $rules:expr)?;)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        const RULES: &[Rules] = &[$(rules!($($rules)?)),*];
        static CALLS: &[KfuncFn] = &[$($call),*];

        /// The kfuncs that the engine provides itself, with their C prototypes; a host adds
        /// them to the table that objects are linked against.
        pub static GENERIC_KFUNC_PROTOS: &[(&str, &str)] = &[$((stringify!($name), $proto)),*];

        static DESCS: [KfuncDesc; NAMES.len()] = {
            let plain = KfuncDesc {
                id: GENERIC_KFUNC_BASE,
                name: "",
                args: &[],
                contexts: ContextSet::ANY,
                sleepable: Sleepable::No,
                rules: Rules::PLAIN,
            };
            let mut descs = [plain; NAMES.len()];
            let mut i = 0;
            while i < NAMES.len() {
                #[expect(clippy::cast_possible_truncation, reason = "a short table")]
                let id = GENERIC_KFUNC_BASE + i as u32;
                descs[i] = KfuncDesc { id, name: NAMES[i], rules: RULES[i], ..plain };
                i += 1;
            }
            descs
        };
    };
}

const ITER_NUM: Object = Object::Iterator("bpf_iter_num");
const ITER_BITS: Object = Object::Iterator("bpf_iter_bits");
const NEW: Rules = Rules::of(Effect::Result(Object::Local));
const DROP: Rules = Rules::of(Effect::End(Object::Local));
/// What they do to what a run holds depends on the nodes.
const GRAPH: Rules = Rules::PLAIN.under_lock();

generic_kfuncs! {
    bpf_arena_alloc_pages arena_alloc_pages,
        "void *bpf_arena_alloc_pages(void *p__map, void *addr__ign, u32 page_cnt, int node_id, u64 flags)",
        Rules::PLAIN.under_lock();
    bpf_arena_free_pages arena_free_pages,
        "void bpf_arena_free_pages(void *p__map, void *ptr__ign, u32 page_cnt)",
        Rules::PLAIN.under_lock();
    bpf_arena_reserve_pages arena_reserve_pages,
        "int bpf_arena_reserve_pages(void *p__map, void *ptr__ign, u32 page_cnt)",
        Rules::PLAIN.under_lock();
    bpf_arena_alloc slab::arena_alloc, "void *bpf_arena_alloc(void *p__map, u32 size)",
        Rules::PLAIN.under_lock();
    bpf_arena_free slab::arena_free, "void bpf_arena_free(void *p__map, void *ptr__ign)",
        Rules::PLAIN.under_lock();
    bpf_iter_num_new iter_num_new,
        "int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end)",
        Rules::of(Effect::Begin(ITER_NUM)).under_lock();
    bpf_iter_num_next iter_num_next, "int *bpf_iter_num_next(struct bpf_iter_num *it)",
        Rules::of(Effect::Use(ITER_NUM)).under_lock();
    bpf_iter_num_destroy iter_num_destroy, "void bpf_iter_num_destroy(struct bpf_iter_num *it)",
        Rules::of(Effect::End(ITER_NUM)).under_lock();
    bpf_stream_vprintk stream_vprintk,
        "int bpf_stream_vprintk(int stream_id, const char *fmt__str, const void *args, u32 len__sz, void *aux__prog)",
        Rules::PLAIN.under_lock();
    bpf_stream_vprintk_impl stream_vprintk,
        "int bpf_stream_vprintk_impl(int stream_id, const char *fmt__str, const void *args, u32 len__sz, void *aux__prog)",
        Rules::PLAIN.under_lock();
    bpf_rcu_read_lock nothing, "void bpf_rcu_read_lock(void)",
        Rules::of(Effect::Begin(Object::Rcu));
    bpf_rcu_read_unlock nothing, "void bpf_rcu_read_unlock(void)",
        Rules::of(Effect::End(Object::Rcu));
    bpf_preempt_disable nothing, "void bpf_preempt_disable(void)",
        Rules::of(Effect::Begin(Object::Preempt));
    bpf_preempt_enable nothing, "void bpf_preempt_enable(void)",
        Rules::of(Effect::End(Object::Preempt));
    bpf_local_irq_save irq_save, "void bpf_local_irq_save(unsigned long *flags__irq_flag)",
        Rules::of(Effect::Begin(Object::Irq));
    bpf_local_irq_restore nothing, "void bpf_local_irq_restore(unsigned long *flags__irq_flag)",
        Rules::of(Effect::End(Object::Irq));
    bpf_res_spin_lock res_spin_lock, "int bpf_res_spin_lock(struct bpf_res_spin_lock *lock)",
        Rules::of(Effect::Begin(Object::ResLock)).under_lock();
    bpf_res_spin_unlock res_spin_unlock, "void bpf_res_spin_unlock(struct bpf_res_spin_lock *lock)",
        Rules::of(Effect::End(Object::ResLock)).under_lock();
    bpf_res_spin_lock_irqsave res_spin_lock,
        "int bpf_res_spin_lock_irqsave(struct bpf_res_spin_lock *lock, unsigned long *flags__irq_flag)",
        Rules::of(Effect::Begin(Object::ResLockIrq)).under_lock();
    bpf_res_spin_unlock_irqrestore res_spin_unlock,
        "void bpf_res_spin_unlock_irqrestore(struct bpf_res_spin_lock *lock, unsigned long *flags__irq_flag)",
        Rules::of(Effect::End(Object::ResLockIrq)).under_lock();
    bpf_cast_to_kern_ctx same, "void *bpf_cast_to_kern_ctx(void *obj)";
    bpf_rdonly_cast same, "void *bpf_rdonly_cast(const void *obj__ign, u32 btf_id__k)";
    bpf_throw throw, "void bpf_throw(u64 cookie)";
    bpf_iter_bits_new bits::new,
        "int bpf_iter_bits_new(struct bpf_iter_bits *it, const u64 *unsafe_ptr__ign, u32 nr_words)",
        Rules::of(Effect::Begin(ITER_BITS));
    bpf_iter_bits_next bits::next,
        "int *bpf_iter_bits_next(struct bpf_iter_bits *it)",
        Rules::of(Effect::Use(ITER_BITS));
    bpf_iter_bits_destroy bits::destroy,
        "void bpf_iter_bits_destroy(struct bpf_iter_bits *it)",
        Rules::of(Effect::End(ITER_BITS));
    bpf_strlen strings::strlen,
        "int bpf_strlen(const char *s__ign)";
    bpf_strnlen strings::strnlen,
        "int bpf_strnlen(const char *s__ign, size_t count)";
    bpf_strcmp strings::strcmp,
        "int bpf_strcmp(const char *s1__ign, const char *s2__ign)";
    bpf_strcasecmp strings::strcasecmp,
        "int bpf_strcasecmp(const char *s1__ign, const char *s2__ign)";
    bpf_strncasecmp strings::strncasecmp,
        "int bpf_strncasecmp(const char *s1__ign, const char *s2__ign, size_t len)";
    bpf_strchr strings::strchr,
        "int bpf_strchr(const char *s__ign, char c)";
    bpf_strnchr strings::strnchr,
        "int bpf_strnchr(const char *s__ign, size_t count, char c)";
    bpf_strchrnul strings::strchrnul,
        "int bpf_strchrnul(const char *s__ign, char c)";
    bpf_strrchr strings::strrchr,
        "int bpf_strrchr(const char *s__ign, int c)";
    bpf_strspn strings::strspn,
        "int bpf_strspn(const char *s__ign, const char *accept__ign)";
    bpf_strcspn strings::strcspn,
        "int bpf_strcspn(const char *s__ign, const char *reject__ign)";
    bpf_strstr strings::strstr,
        "int bpf_strstr(const char *s1__ign, const char *s2__ign)";
    bpf_strcasestr strings::strcasestr,
        "int bpf_strcasestr(const char *s1__ign, const char *s2__ign)";
    bpf_strnstr strings::strnstr,
        "int bpf_strnstr(const char *s1__ign, const char *s2__ign, size_t len)";
    bpf_strncasestr strings::strncasestr,
        "int bpf_strncasestr(const char *s1__ign, const char *s2__ign, size_t len)";
    bpf_copy_from_user_str user::copy_str,
        "int bpf_copy_from_user_str(void *dst, u32 dst__sz, const void *unsafe_ptr__ign, u64 flags)";
    bpf_copy_from_user_task_str user::copy_task_str,
        "int bpf_copy_from_user_task_str(void *dst, u32 dst__sz, const void *unsafe_ptr__ign, struct task_struct *tsk, u64 flags)";
    bpf_copy_from_user_dynptr user::copy_dynptr,
        "int bpf_copy_from_user_dynptr(const struct bpf_dynptr *dptr, u64 off, u64 size, const void *unsafe_ptr__ign)";
    bpf_copy_from_user_str_dynptr user::copy_str_dynptr,
        "int bpf_copy_from_user_str_dynptr(const struct bpf_dynptr *dptr, u64 off, u64 size, const void *unsafe_ptr__ign)";
    bpf_copy_from_user_task_dynptr user::copy_dynptr,
        "int bpf_copy_from_user_task_dynptr(const struct bpf_dynptr *dptr, u64 off, u64 size, const void *unsafe_ptr__ign, struct task_struct *tsk)";
    bpf_copy_from_user_task_str_dynptr user::copy_str_dynptr,
        "int bpf_copy_from_user_task_str_dynptr(const struct bpf_dynptr *dptr, u64 off, u64 size, const void *unsafe_ptr__ign, struct task_struct *tsk)";
    bpf_probe_read_user_dynptr user::probe_user_dynptr,
        "int bpf_probe_read_user_dynptr(const struct bpf_dynptr *dptr, u64 off, u64 size, const void *unsafe_ptr__ign)";
    bpf_probe_read_user_str_dynptr user::probe_user_dynptr,
        "int bpf_probe_read_user_str_dynptr(const struct bpf_dynptr *dptr, u64 off, u64 size, const void *unsafe_ptr__ign)";
    bpf_probe_read_kernel_dynptr user::probe_dynptr,
        "int bpf_probe_read_kernel_dynptr(const struct bpf_dynptr *dptr, u64 off, u64 size, const void *unsafe_ptr__ign)";
    bpf_probe_read_kernel_str_dynptr user::probe_str_dynptr,
        "int bpf_probe_read_kernel_str_dynptr(const struct bpf_dynptr *dptr, u64 off, u64 size, const void *unsafe_ptr__ign)";
    bpf_get_kmem_cache nothing,
        "struct kmem_cache *bpf_get_kmem_cache(u64 addr)";
    bpf_dynptr_adjust dynptr::adjust,
        "int bpf_dynptr_adjust(struct bpf_dynptr *p, u64 start, u64 end)";
    bpf_dynptr_is_null dynptr::is_null, "bool bpf_dynptr_is_null(const struct bpf_dynptr *p)";
    bpf_dynptr_is_rdonly dynptr::is_rdonly,
        "bool bpf_dynptr_is_rdonly(const struct bpf_dynptr *p)";
    bpf_dynptr_size dynptr::size, "u64 bpf_dynptr_size(const struct bpf_dynptr *p)";
    bpf_dynptr_clone dynptr::clone,
        "int bpf_dynptr_clone(const struct bpf_dynptr *p, struct bpf_dynptr *clone__uninit)";
    bpf_dynptr_slice dynptr::slice,
        "void *bpf_dynptr_slice(const struct bpf_dynptr *p, u64 offset, void *buffer__nullable, u64 buffer__szk)";
    bpf_dynptr_slice_rdwr dynptr::slice,
        "void *bpf_dynptr_slice_rdwr(const struct bpf_dynptr *p, u64 offset, void *buffer__nullable, u64 buffer__szk)";
    bpf_dynptr_copy dynptr::copy,
        "int bpf_dynptr_copy(const struct bpf_dynptr *dst_ptr, u64 dst_off, const struct bpf_dynptr *src_ptr, u64 src_off, u64 size)";
    bpf_dynptr_memset dynptr::memset,
        "int bpf_dynptr_memset(const struct bpf_dynptr *p, u64 offset, u64 size, u8 val)";
    bpf_obj_new objects::new, "void *bpf_obj_new(u64 local_type_id__k)", NEW;
    bpf_obj_new_impl objects::new,
        "void *bpf_obj_new_impl(u64 local_type_id__k, void *meta__ign)", NEW;
    bpf_obj_drop objects::drop, "void bpf_obj_drop(void *p__alloc)", DROP;
    bpf_obj_drop_impl objects::drop,
        "void bpf_obj_drop_impl(void *p__alloc, void *meta__ign)", DROP;
    bpf_percpu_obj_new objects::new_percpu, "void *bpf_percpu_obj_new(u64 local_type_id__k)",
        Rules::of(Effect::Result(Object::LocalPercpu));
    bpf_percpu_obj_new_impl objects::new_percpu,
        "void *bpf_percpu_obj_new_impl(u64 local_type_id__k, void *meta__ign)",
        Rules::of(Effect::Result(Object::LocalPercpu));
    bpf_percpu_obj_drop objects::drop, "void bpf_percpu_obj_drop(void *p__alloc)",
        Rules::of(Effect::End(Object::LocalPercpu));
    bpf_percpu_obj_drop_impl objects::drop,
        "void bpf_percpu_obj_drop_impl(void *p__alloc, void *meta__ign)",
        Rules::of(Effect::End(Object::LocalPercpu));
    bpf_refcount_acquire objects::refcount_acquire,
        "void *bpf_refcount_acquire(void *p__refcounted_kptr)", NEW.under_lock();
    bpf_refcount_acquire_impl objects::refcount_acquire,
        "void *bpf_refcount_acquire_impl(void *p__refcounted_kptr, void *meta__ign)",
        NEW.under_lock();
    bpf_list_push_front graph::push_front,
        "int bpf_list_push_front(struct bpf_list_head *head, struct bpf_list_node *node)", GRAPH;
    bpf_list_push_front_impl graph::push_front,
        "int bpf_list_push_front_impl(struct bpf_list_head *head, struct bpf_list_node *node, void *meta__ign, u64 off)",
        GRAPH;
    bpf_list_push_back graph::push_back,
        "int bpf_list_push_back(struct bpf_list_head *head, struct bpf_list_node *node)", GRAPH;
    bpf_list_push_back_impl graph::push_back,
        "int bpf_list_push_back_impl(struct bpf_list_head *head, struct bpf_list_node *node, void *meta__ign, u64 off)",
        GRAPH;
    bpf_list_pop_front graph::pop_front,
        "struct bpf_list_node *bpf_list_pop_front(struct bpf_list_head *head)", GRAPH;
    bpf_list_pop_back graph::pop_back,
        "struct bpf_list_node *bpf_list_pop_back(struct bpf_list_head *head)", GRAPH;
    bpf_list_front graph::front,
        "struct bpf_list_node *bpf_list_front(struct bpf_list_head *head)", GRAPH;
    bpf_list_back graph::back,
        "struct bpf_list_node *bpf_list_back(struct bpf_list_head *head)", GRAPH;
    bpf_list_add graph::insert,
        "int bpf_list_add(struct bpf_list_head *head, struct bpf_list_node *new, struct bpf_list_node *prev__nonown_allowed)",
        GRAPH;
    bpf_list_del graph::del,
        "struct bpf_list_node *bpf_list_del(struct bpf_list_head *head, struct bpf_list_node *node__nonown_allowed)",
        GRAPH;
    bpf_list_empty graph::is_empty, "bool bpf_list_empty(struct bpf_list_head *head)", GRAPH;
    bpf_list_is_first graph::is_first,
        "bool bpf_list_is_first(struct bpf_list_head *head, struct bpf_list_node *node__nonown_allowed)",
        GRAPH;
    bpf_list_is_last graph::is_last,
        "bool bpf_list_is_last(struct bpf_list_head *head, struct bpf_list_node *node__nonown_allowed)",
        GRAPH;
    bpf_rbtree_add graph::add,
        "int bpf_rbtree_add(struct bpf_rb_root *root, struct bpf_rb_node *node, bool (*less)(struct bpf_rb_node *a, const struct bpf_rb_node *b))",
        GRAPH;
    bpf_rbtree_add_impl graph::add,
        "int bpf_rbtree_add_impl(struct bpf_rb_root *root, struct bpf_rb_node *node, bool (*less)(struct bpf_rb_node *a, const struct bpf_rb_node *b), void *meta__ign, u64 off)",
        GRAPH;
    bpf_rbtree_remove graph::remove,
        "struct bpf_rb_node *bpf_rbtree_remove(struct bpf_rb_root *root, struct bpf_rb_node *node)",
        GRAPH;
    bpf_rbtree_first graph::first,
        "struct bpf_rb_node *bpf_rbtree_first(struct bpf_rb_root *root)", GRAPH;
    bpf_rbtree_root graph::top,
        "struct bpf_rb_node *bpf_rbtree_root(struct bpf_rb_root *root)", GRAPH;
    bpf_rbtree_left graph::left,
        "struct bpf_rb_node *bpf_rbtree_left(struct bpf_rb_root *root, struct bpf_rb_node *node)",
        GRAPH;
    bpf_rbtree_right graph::right,
        "struct bpf_rb_node *bpf_rbtree_right(struct bpf_rb_root *root, struct bpf_rb_node *node)",
        GRAPH;
}

/// The kfuncs that the engine provides itself.
#[must_use]
pub fn generic_kfuncs() -> &'static [KfuncDesc] {
    &DESCS
}

/// What a recovered fault costs, and a page that is allocated or freed, in instructions.
const INSNS_PER_FAULT: u64 = 256;
const INSNS_PER_PAGE: u64 = 64;

/// Counts pages that are allocated or freed; more than an arena has are refused anyway.
fn charge_pages(ctx: &mut Ctx<'_>, pages: u32) -> Result<(), Fail> {
    let pages = pages.min(PageIndex::COUNT);
    Ok(ctx.vm.charge(u64::from(pages) * INSNS_PER_PAGE)?)
}

/// Calls kfunc number `index` of the program's table.
pub(crate) fn call(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    index: u32,
    mut args: [u64; 5],
) -> Result<u64, Abort> {
    let desc = program.kfuncs[index as usize];
    let watched = Watched {
        function: desc.name,
        rules: desc.rules,
        sleepable: desc.sleepable,
        args,
    };
    held::before(vm, &watched)?;
    if let Some(own) = desc.id.checked_sub(GENERIC_KFUNC_BASE) {
        let mut ctx = Ctx {
            vm,
            host,
            program,
            name: desc.name,
        };
        let ret = answer(CALLS[own as usize](&mut ctx, args))?;
        held::after(vm, &watched, ret);
        return Ok(ret);
    }
    let run = *vm.runs.last().expect("a call belongs to a run");
    let sleeps_illegally = desc.sleepable == Sleepable::Yes && run.sleepable == Sleepable::No;
    if sleeps_illegally || !desc.contexts.meets(run.contexts) {
        return Err(vm.abort_here(AbortCause::KfuncContext {
            name: desc.name.to_owned(),
        }));
    }
    rebase(program, &desc, &mut args);
    let mut call = Call {
        vm,
        prog: program.id,
        name: desc.name,
    };
    let ret = host.kfunc(&mut call, desc.id, args);
    let faults = crate::report::host_faults(vm, host, program);
    let ret = ret?;
    held::after(vm, &watched, ret);
    charge_faults(vm, faults)?;
    Ok(ret)
}

/// Counts the work of recovering and reporting faults.
pub(crate) fn charge_faults(vm: &mut Vm, faults: u64) -> Result<(), Abort> {
    vm.charge(faults.saturating_mul(INSNS_PER_FAULT))
}

/// `__arena` arguments become kernel addresses, whatever their high bits were.
fn rebase(program: &Program, desc: &KfuncDesc, args: &mut [u64; 5]) {
    if desc.args.is_empty() {
        return;
    }
    // Load refuses `__arena` parameters without an arena.
    let Some(arena) = program.arena_memory() else {
        return;
    };
    for (arg, kind) in args.iter_mut().zip(desc.args) {
        let offset = ArenaOffset::of(UserAddr::new(*arg));
        match kind {
            KfuncArg::Plain => {}
            KfuncArg::ArenaNullable if offset.raw() == 0 => *arg = 0,
            KfuncArg::Arena | KfuncArg::ArenaNullable => *arg = arena.kern_addr(offset).raw(),
        }
    }
}

fn nothing(_: &mut Ctx<'_>, _: [u64; 5]) -> Answer {
    Ok(0)
}

fn same(_: &mut Ctx<'_>, [obj, ..]: [u64; 5]) -> Answer {
    Ok(obj)
}

fn throw(ctx: &mut Ctx<'_>, [cookie, ..]: [u64; 5]) -> Answer {
    Err(ctx.vm.abort_here(AbortCause::Thrown { cookie }).into())
}

fn irq_save(ctx: &mut Ctx<'_>, [flags, ..]: [u64; 5]) -> Answer {
    ctx.put(flags, &[0; 8])?;
    Ok(0)
}

/// Only an outer run can hold the lock: the kernel's deadlock detection would find it.
fn res_spin_lock(ctx: &mut Ctx<'_>, [lock, ..]: [u64; 5]) -> Answer {
    check_lock(ctx, lock, SpecialKind::ResSpinLock)?;
    let (mem, addr) = (&ctx.vm.mem, KernAddr::new(lock));
    let writable = mem.writable_by_program(addr, 4);
    let taken = writable.and_then(|()| mem.cmpxchg_u32(addr, 0, 1));
    match taken.map_err(|fault| ctx.fault(fault))? {
        0 => Ok(0),
        _ => Err(Errno::EDEADLK.into()),
    }
}

fn res_spin_unlock(ctx: &mut Ctx<'_>, [lock, ..]: [u64; 5]) -> Answer {
    ctx.put(lock, &[0; 4])?;
    Ok(0)
}

/// `BPF_MAX_LOOPS`.
const ITER_NUM_MAX: i64 = 8 * 1024 * 1024;

fn s32(arg: u64) -> i32 {
    let [a, b, c, d, ..] = arg.to_le_bytes();
    i32::from_le_bytes([a, b, c, d])
}

/// `struct bpf_iter_num_kern`: current number, end.
fn put_iter(ctx: &Ctx<'_>, it: u64, cur: i32, end: i32) -> Answer {
    let [a, b, c, d] = cur.to_le_bytes();
    let [e, f, g, h] = end.to_le_bytes();
    ctx.put(it, &[a, b, c, d, e, f, g, h])?;
    Ok(0)
}

fn iter_num_new(ctx: &mut Ctx<'_>, [it, start, end, ..]: [u64; 5]) -> Answer {
    let (start, end) = (s32(start), s32(end));
    put_iter(ctx, it, 0, 0)?;
    if start > end {
        return Err(Errno::EINVAL.into());
    }
    if i64::from(end) - i64::from(start) > ITER_NUM_MAX {
        return Err(Errno::E2BIG.into());
    }
    put_iter(ctx, it, start.wrapping_sub(1), end)
}

/// The iterator holds the number, so its own address is what the program gets.
fn iter_num_next(ctx: &mut Ctx<'_>, [it, ..]: [u64; 5]) -> Answer {
    let at = KernAddr::new(it);
    let state = ctx.vm.mem.read_u64(at).map_err(|fault| ctx.fault(fault))?;
    let (cur, end) = (s32(state), s32(state >> 32));
    let next = cur.wrapping_add(1);
    if i64::from(cur) + 1 >= i64::from(end) {
        put_iter(ctx, it, 0, 0)?;
        return Ok(0);
    }
    put_iter(ctx, it, next, end)?;
    Ok(it)
}

fn iter_num_destroy(ctx: &mut Ctx<'_>, [it, ..]: [u64; 5]) -> Answer {
    put_iter(ctx, it, 0, 0)
}

/// The arena behind a map argument.
fn arena(ctx: &Ctx<'_>, map: u64) -> Result<Arc<Arena>, Fail> {
    let id = ctx.map_id(map)?;
    match ctx.vm.arena(id) {
        Some(arena) => Ok(Arc::clone(arena)),
        None => Err(ctx.bad("the map is no arena")),
    }
}

fn may_sleep(ctx: &Ctx<'_>) -> bool {
    let run = ctx.vm.runs.last();
    run.is_some_and(|run| run.sleepable == Sleepable::Yes) && !held::is_atomic(ctx.vm)
}

fn u32_of(arg: u64) -> u32 {
    s32(arg).cast_unsigned()
}

/// Any node, as a program passes it: -1.
const NUMA_NO_NODE: u32 = u32::MAX;
/// The kernel's `MAX_NUMNODES`: no machine has a node of this number or beyond.
const NODES_MAX: u32 = 1024;

/// The user address of the pages, or NULL. The node is a wish that costs nothing here, but one
/// that cannot be is refused.
fn arena_alloc_pages(ctx: &mut Ctx<'_>, [map, addr, count, node, flags]: [u64; 5]) -> Answer {
    let arena = arena(ctx, map)?;
    let node = u32_of(node);
    if node != NUMA_NO_NODE && node >= NODES_MAX {
        return Ok(0);
    }
    charge_pages(ctx, u32_of(count))?;
    let addr = (addr != 0).then_some(UserAddr::new(addr));
    let count = u32_of(count);
    let hook = ctx.vm.alloc_hook.filter(|_| flags == 0);
    let pages = match (hook, may_sleep(ctx)) {
        (None, true) => arena.alloc_pages(addr, count, flags),
        (None, false) => arena.alloc_pages_non_sleepable(addr, count, flags),
        (Some(hook), sleepable) => {
            let mut done = Ok(());
            let run = || done = run_hook(ctx, hook);
            let pages = if sleepable {
                arena.alloc_pages_traced(addr, count, run)
            } else {
                arena.alloc_pages_non_sleepable_traced(addr, count, run)
            };
            done?;
            pages
        }
    };
    Ok(pages.map_or(0, UserAddr::raw))
}

/// Runs the tracing program inside the allocator, unless it is running already.
fn run_hook(ctx: &mut Ctx<'_>, prog: ProgId) -> Result<(), Abort> {
    if ctx.vm.runs.iter().any(|run| run.prog == prog) {
        return Ok(());
    }
    let entry = Entry {
        prog,
        slot: 0,
        args: [0; 5],
        contexts: ContextSet::ANY,
        sleepable: Sleepable::No,
        timer: None,
    };
    exec::enter(ctx.vm, entry, ctx.host).map(drop)
}

/// Frees at once where the program may sleep, and by and by where it may not.
fn arena_free_pages(ctx: &mut Ctx<'_>, [map, ptr, count, ..]: [u64; 5]) -> Answer {
    let arena = arena(ctx, map)?;
    let (ptr, count) = (UserAddr::new(ptr), u32_of(count));
    charge_pages(ctx, count)?;
    // The page at offset 0 is freed by its user address, never by NULL.
    if ptr.raw() == 0 {
        return Ok(0);
    }
    if !may_sleep(ctx) || arena.free_pages(ptr, count).is_err() {
        arena.free_pages_deferred(ptr, count);
        let id = ctx.map_id(map)?;
        ctx.vm.deferred_frees.insert(id);
    }
    Ok(0)
}

fn arena_reserve_pages(ctx: &mut Ctx<'_>, [map, ptr, count, ..]: [u64; 5]) -> Answer {
    let arena = arena(ctx, map)?;
    charge_pages(ctx, u32_of(count))?;
    // The kernel says that it did, and does nothing.
    if !ptr.is_multiple_of(PAGE_SIZE) {
        return Ok(0);
    }
    match arena.reserve_pages(UserAddr::new(ptr), u32_of(count)) {
        Ok(()) => Ok(0),
        Err(error) => Err(error.errno().into()),
    }
}
