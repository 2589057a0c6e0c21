//! Program types and the section names that stand for them.

macro_rules! prog_types {
    ($($variant:ident = $number:literal, $name:literal;)*) => {
        /// Type of a program, with the kernel's numbers.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u32)]
        pub enum ProgType {
            $(#[doc = concat!("`", $name, "`")] $variant = $number,)*
        }

        impl ProgType {
            /// The kernel's name without `BPF_PROG_TYPE_`, in lower case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

prog_types! {
    Unspec = 0, "unspec";
    SocketFilter = 1, "socket_filter";
    Kprobe = 2, "kprobe";
    SchedCls = 3, "sched_cls";
    SchedAct = 4, "sched_act";
    Tracepoint = 5, "tracepoint";
    Xdp = 6, "xdp";
    PerfEvent = 7, "perf_event";
    CgroupSkb = 8, "cgroup_skb";
    CgroupSock = 9, "cgroup_sock";
    LwtIn = 10, "lwt_in";
    LwtOut = 11, "lwt_out";
    LwtXmit = 12, "lwt_xmit";
    SockOps = 13, "sock_ops";
    SkSkb = 14, "sk_skb";
    CgroupDevice = 15, "cgroup_device";
    SkMsg = 16, "sk_msg";
    RawTracepoint = 17, "raw_tracepoint";
    CgroupSockAddr = 18, "cgroup_sock_addr";
    LwtSeg6local = 19, "lwt_seg6local";
    LircMode2 = 20, "lirc_mode2";
    SkReuseport = 21, "sk_reuseport";
    FlowDissector = 22, "flow_dissector";
    CgroupSysctl = 23, "cgroup_sysctl";
    RawTracepointWritable = 24, "raw_tracepoint_writable";
    CgroupSockopt = 25, "cgroup_sockopt";
    Tracing = 26, "tracing";
    StructOps = 27, "struct_ops";
    Ext = 28, "ext";
    Lsm = 29, "lsm";
    SkLookup = 30, "sk_lookup";
    Syscall = 31, "syscall";
    Netfilter = 32, "netfilter";
}

/// How a section name and what follows it are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Suffix {
    /// Just the name.
    None,
    /// `/target` may follow.
    Optional,
}

/// What a section name says of its programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SectionMeaning<'a> {
    pub(crate) prog_type: ProgType,
    pub(crate) sleepable: bool,
    /// What follows the slash.
    pub(crate) attach: Option<&'a str>,
}

/// The meaning of a section name without its `?`; `None` if it has none.
pub(crate) fn meaning(name: &str) -> Option<SectionMeaning<'_>> {
    SECTIONS
        .iter()
        .find_map(|(known, suffix, prog_type, sleepable)| {
            let rest = name.strip_prefix(known)?;
            let attach = match (rest.strip_prefix('/'), suffix) {
                (None, Suffix::None | Suffix::Optional) if rest.is_empty() => None,
                (Some(target), Suffix::Optional) => Some(target),
                _ => return None,
            };
            Some(SectionMeaning {
                prog_type: *prog_type,
                sleepable: *sleepable,
                attach: attach.filter(|target| !target.is_empty()),
            })
        })
}

use ProgType as P;
use Suffix::{None as Bare, Optional as Plus};

/// libbpf's table of section names.
const SECTIONS: &[(&str, Suffix, ProgType, bool)] = &[
    ("socket", Bare, P::SocketFilter, false),
    ("sk_reuseport/migrate", Bare, P::SkReuseport, false),
    ("sk_reuseport", Bare, P::SkReuseport, false),
    ("kprobe", Plus, P::Kprobe, false),
    ("uprobe", Plus, P::Kprobe, false),
    ("uprobe.s", Plus, P::Kprobe, true),
    ("kretprobe", Plus, P::Kprobe, false),
    ("uretprobe", Plus, P::Kprobe, false),
    ("uretprobe.s", Plus, P::Kprobe, true),
    ("kprobe.multi", Plus, P::Kprobe, false),
    ("kretprobe.multi", Plus, P::Kprobe, false),
    ("kprobe.session", Plus, P::Kprobe, false),
    ("uprobe.multi", Plus, P::Kprobe, false),
    ("uretprobe.multi", Plus, P::Kprobe, false),
    ("uprobe.session", Plus, P::Kprobe, false),
    ("uprobe.multi.s", Plus, P::Kprobe, true),
    ("uretprobe.multi.s", Plus, P::Kprobe, true),
    ("uprobe.session.s", Plus, P::Kprobe, true),
    ("ksyscall", Plus, P::Kprobe, false),
    ("kretsyscall", Plus, P::Kprobe, false),
    ("usdt", Plus, P::Kprobe, false),
    ("usdt.s", Plus, P::Kprobe, true),
    ("tc/ingress", Bare, P::SchedCls, false),
    ("tc/egress", Bare, P::SchedCls, false),
    ("tcx/ingress", Bare, P::SchedCls, false),
    ("tcx/egress", Bare, P::SchedCls, false),
    ("tc", Bare, P::SchedCls, false),
    ("classifier", Bare, P::SchedCls, false),
    ("action", Bare, P::SchedAct, false),
    ("netkit/primary", Bare, P::SchedCls, false),
    ("netkit/peer", Bare, P::SchedCls, false),
    ("tracepoint", Plus, P::Tracepoint, false),
    ("tp", Plus, P::Tracepoint, false),
    ("raw_tracepoint", Plus, P::RawTracepoint, false),
    ("raw_tp", Plus, P::RawTracepoint, false),
    ("raw_tracepoint.w", Plus, P::RawTracepointWritable, false),
    ("raw_tp.w", Plus, P::RawTracepointWritable, false),
    ("tp_btf", Plus, P::Tracing, false),
    ("fentry", Plus, P::Tracing, false),
    ("fmod_ret", Plus, P::Tracing, false),
    ("fexit", Plus, P::Tracing, false),
    ("fsession", Plus, P::Tracing, false),
    ("fentry.s", Plus, P::Tracing, true),
    ("fmod_ret.s", Plus, P::Tracing, true),
    ("fexit.s", Plus, P::Tracing, true),
    ("fsession.s", Plus, P::Tracing, true),
    ("freplace", Plus, P::Ext, false),
    ("lsm", Plus, P::Lsm, false),
    ("lsm.s", Plus, P::Lsm, true),
    ("lsm_cgroup", Plus, P::Lsm, false),
    ("iter", Plus, P::Tracing, false),
    ("iter.s", Plus, P::Tracing, true),
    ("syscall", Bare, P::Syscall, true),
    ("xdp.frags/devmap", Bare, P::Xdp, false),
    ("xdp/devmap", Bare, P::Xdp, false),
    ("xdp.frags/cpumap", Bare, P::Xdp, false),
    ("xdp/cpumap", Bare, P::Xdp, false),
    ("xdp.frags", Bare, P::Xdp, false),
    ("xdp", Bare, P::Xdp, false),
    ("perf_event", Bare, P::PerfEvent, false),
    ("lwt_in", Bare, P::LwtIn, false),
    ("lwt_out", Bare, P::LwtOut, false),
    ("lwt_xmit", Bare, P::LwtXmit, false),
    ("lwt_seg6local", Bare, P::LwtSeg6local, false),
    ("sockops", Bare, P::SockOps, false),
    ("sk_skb/stream_parser", Bare, P::SkSkb, false),
    ("sk_skb/stream_verdict", Bare, P::SkSkb, false),
    ("sk_skb/verdict", Bare, P::SkSkb, false),
    ("sk_skb", Bare, P::SkSkb, false),
    ("sk_msg", Bare, P::SkMsg, false),
    ("lirc_mode2", Bare, P::LircMode2, false),
    ("flow_dissector", Bare, P::FlowDissector, false),
    ("cgroup_skb/ingress", Bare, P::CgroupSkb, false),
    ("cgroup_skb/egress", Bare, P::CgroupSkb, false),
    ("cgroup/skb", Bare, P::CgroupSkb, false),
    ("cgroup/sock_create", Bare, P::CgroupSock, false),
    ("cgroup/sock_release", Bare, P::CgroupSock, false),
    ("cgroup/sock", Bare, P::CgroupSock, false),
    ("cgroup/post_bind4", Bare, P::CgroupSock, false),
    ("cgroup/post_bind6", Bare, P::CgroupSock, false),
    ("cgroup/bind4", Bare, P::CgroupSockAddr, false),
    ("cgroup/bind6", Bare, P::CgroupSockAddr, false),
    ("cgroup/connect4", Bare, P::CgroupSockAddr, false),
    ("cgroup/connect6", Bare, P::CgroupSockAddr, false),
    ("cgroup/connect_unix", Bare, P::CgroupSockAddr, false),
    ("cgroup/sendmsg4", Bare, P::CgroupSockAddr, false),
    ("cgroup/sendmsg6", Bare, P::CgroupSockAddr, false),
    ("cgroup/sendmsg_unix", Bare, P::CgroupSockAddr, false),
    ("cgroup/recvmsg4", Bare, P::CgroupSockAddr, false),
    ("cgroup/recvmsg6", Bare, P::CgroupSockAddr, false),
    ("cgroup/recvmsg_unix", Bare, P::CgroupSockAddr, false),
    ("cgroup/getpeername4", Bare, P::CgroupSockAddr, false),
    ("cgroup/getpeername6", Bare, P::CgroupSockAddr, false),
    ("cgroup/getpeername_unix", Bare, P::CgroupSockAddr, false),
    ("cgroup/getsockname4", Bare, P::CgroupSockAddr, false),
    ("cgroup/getsockname6", Bare, P::CgroupSockAddr, false),
    ("cgroup/getsockname_unix", Bare, P::CgroupSockAddr, false),
    ("cgroup/sysctl", Bare, P::CgroupSysctl, false),
    ("cgroup/getsockopt", Bare, P::CgroupSockopt, false),
    ("cgroup/setsockopt", Bare, P::CgroupSockopt, false),
    ("cgroup/dev", Bare, P::CgroupDevice, false),
    ("struct_ops", Plus, P::StructOps, false),
    ("struct_ops.s", Plus, P::StructOps, true),
    ("sk_lookup", Bare, P::SkLookup, false),
    ("netfilter", Bare, P::Netfilter, false),
];
