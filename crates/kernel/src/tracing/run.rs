//! Running what is attached to a moment or to a kfunc.

use harena_scx::{Cx, Moment};
use harena_vm::RunArgs;

use super::context::{Reader, Seen};
use super::helpers::Frame;
use super::points::When;
use crate::sched::{Attached, Origin};

impl Attached<'_> {
    /// The core tells a moment.
    pub(crate) fn trace_moment(&mut self, cx: &mut Cx<'_>, moment: &Moment<'_>) {
        let Some(kind) = moment.kind() else {
            return;
        };
        let seen = self.reader(cx).seen(moment);
        self.look_all(cx, When::At(kind), &seen, Some(moment));
    }

    /// A program calls kfunc `id`.
    pub(crate) fn trace_call(&mut self, cx: &mut Cx<'_>, id: u32, args: [u64; 5]) {
        let seen = Seen::of_kfunc(args, 0);
        self.look_all(cx, When::Call(id), &seen, None);
    }

    /// That call returns.
    pub(crate) fn trace_returned(&mut self, cx: &mut Cx<'_>, id: u32, args: [u64; 5], ret: u64) {
        let seen = Seen::of_kfunc(args, ret);
        self.look_all(cx, When::Returned(id), &seen, None);
    }

    fn reader<'b>(&'b self, cx: &'b Cx<'_>) -> Reader<'b> {
        Reader {
            places: &self.st.places,
            tracing: &self.st.tracing,
            mem: self.vm.mem(),
            core: cx.core,
            level: self.st.level(),
        }
    }

    fn look_all(&mut self, cx: &mut Cx<'_>, when: When, seen: &Seen, moment: Option<&Moment<'_>>) {
        for at in 0.. {
            let Some(index) = self.st.tracing.at(when).get(at).copied() else {
                return;
            };
            let cpu = cx.machine.this_cpu();
            if self.st.tracing.begin(index, cpu) {
                self.look(cx, index, seen, moment);
                self.st.tracing.end(index, cpu);
            }
        }
    }

    /// Runs one program; what it returns means nothing.
    fn look(&mut self, cx: &mut Cx<'_>, index: usize, seen: &Seen, moment: Option<&Moment<'_>>) {
        let onlooker = &self.st.tracing.attached[index];
        let (prog, contexts, point) = (onlooker.prog, onlooker.contexts, onlooker.point);
        let ctx = self.reader(cx).write(&point, seen, moment);
        let frame = Frame {
            point,
            args: seen.args,
            ret: seen.ret,
            ctx,
        };
        let run = RunArgs {
            contexts,
            ..RunArgs::new(ctx)
        };
        self.enter(cx, Origin::Tracing(index, &frame), contexts, |vm, host| {
            vm.run(prog, &run, host).map(|r| (r.ret, r.insns))
        });
    }
}

impl Seen {
    const fn of_kfunc([a, b, c, d, e]: [u64; 5], ret: u64) -> Self {
        Self {
            args: [a, b, c, d, e, 0],
            ret,
        }
    }
}
