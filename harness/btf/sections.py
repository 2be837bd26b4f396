# SPDX-License-Identifier: Apache-2.0
"""What a section name means: libbpf's SEC() definitions, in its order (the first match counts).

`name+` matches `name` and `name/anything`; others match exactly. Flags: `b` the target is a
function or typedef of the kernel's BTF, `s` the program may sleep.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from harness.btf.kinds import Kind


class SectionKind(NamedTuple):
    """A definition that matched."""

    pattern: str
    program_type: str  # lower case, as in features.PROGRAM_TYPES
    attach_type: str  # lower case without BPF_, "" when it has none
    attach_btf: bool
    sleepable: bool


_TABLE: Final = """
socket socket_filter - -
sk_reuseport/migrate sk_reuseport sk_reuseport_select_or_migrate -
sk_reuseport sk_reuseport sk_reuseport_select -
kprobe+ kprobe - -
uprobe+ kprobe - -
uprobe.s+ kprobe - s
kretprobe+ kprobe - -
uretprobe+ kprobe - -
uretprobe.s+ kprobe - s
kprobe.multi+ kprobe trace_kprobe_multi -
kretprobe.multi+ kprobe trace_kprobe_multi -
kprobe.session+ kprobe trace_kprobe_session -
uprobe.multi+ kprobe trace_uprobe_multi -
uretprobe.multi+ kprobe trace_uprobe_multi -
uprobe.session+ kprobe trace_uprobe_session -
uprobe.multi.s+ kprobe trace_uprobe_multi s
uretprobe.multi.s+ kprobe trace_uprobe_multi s
uprobe.session.s+ kprobe trace_uprobe_session s
ksyscall+ kprobe - -
kretsyscall+ kprobe - -
usdt+ kprobe - -
usdt.s+ kprobe - s
tc/ingress sched_cls tcx_ingress -
tc/egress sched_cls tcx_egress -
tcx/ingress sched_cls tcx_ingress -
tcx/egress sched_cls tcx_egress -
tc sched_cls - -
classifier sched_cls - -
action sched_act - -
netkit/primary sched_cls netkit_primary -
netkit/peer sched_cls netkit_peer -
tracepoint+ tracepoint - -
tp+ tracepoint - -
tracepoint.s+ tracepoint - s
tp.s+ tracepoint - s
raw_tracepoint+ raw_tracepoint - -
raw_tp+ raw_tracepoint - -
raw_tracepoint.s+ raw_tracepoint - s
raw_tp.s+ raw_tracepoint - s
raw_tracepoint.w+ raw_tracepoint_writable - -
raw_tp.w+ raw_tracepoint_writable - -
tp_btf+ tracing trace_raw_tp b
tp_btf.s+ tracing trace_raw_tp bs
fentry+ tracing trace_fentry b
fmod_ret+ tracing modify_return b
fexit+ tracing trace_fexit b
fentry.s+ tracing trace_fentry bs
fmod_ret.s+ tracing modify_return bs
fexit.s+ tracing trace_fexit bs
fsession+ tracing trace_fsession b
fsession.s+ tracing trace_fsession bs
fsession.multi+ tracing trace_fsession_multi -
fsession.multi.s+ tracing trace_fsession_multi s
fentry.multi+ tracing trace_fentry_multi -
fexit.multi+ tracing trace_fexit_multi -
fentry.multi.s+ tracing trace_fentry_multi s
fexit.multi.s+ tracing trace_fexit_multi s
freplace+ ext - b
lsm+ lsm lsm_mac b
lsm.s+ lsm lsm_mac bs
lsm_cgroup+ lsm lsm_cgroup b
iter+ tracing trace_iter b
iter.s+ tracing trace_iter bs
syscall syscall - s
xdp.frags/devmap xdp xdp_devmap -
xdp/devmap xdp xdp_devmap -
xdp.frags/cpumap xdp xdp_cpumap -
xdp/cpumap xdp xdp_cpumap -
xdp.frags xdp xdp -
xdp xdp xdp -
perf_event perf_event - -
lwt_in lwt_in - -
lwt_out lwt_out - -
lwt_xmit lwt_xmit - -
lwt_seg6local lwt_seg6local - -
sockops sock_ops cgroup_sock_ops -
sk_skb/stream_parser sk_skb sk_skb_stream_parser -
sk_skb/stream_verdict sk_skb sk_skb_stream_verdict -
sk_skb/verdict sk_skb sk_skb_verdict -
sk_skb sk_skb - -
sk_msg sk_msg sk_msg_verdict -
lirc_mode2 lirc_mode2 lirc_mode2 -
flow_dissector flow_dissector flow_dissector -
cgroup_skb/ingress cgroup_skb cgroup_inet_ingress -
cgroup_skb/egress cgroup_skb cgroup_inet_egress -
cgroup/skb cgroup_skb - -
cgroup/sock_create cgroup_sock cgroup_inet_sock_create -
cgroup/sock_release cgroup_sock cgroup_inet_sock_release -
cgroup/sock cgroup_sock cgroup_inet_sock_create -
cgroup/post_bind4 cgroup_sock cgroup_inet4_post_bind -
cgroup/post_bind6 cgroup_sock cgroup_inet6_post_bind -
cgroup/bind4 cgroup_sock_addr cgroup_inet4_bind -
cgroup/bind6 cgroup_sock_addr cgroup_inet6_bind -
cgroup/connect4 cgroup_sock_addr cgroup_inet4_connect -
cgroup/connect6 cgroup_sock_addr cgroup_inet6_connect -
cgroup/connect_unix cgroup_sock_addr cgroup_unix_connect -
cgroup/sendmsg4 cgroup_sock_addr cgroup_udp4_sendmsg -
cgroup/sendmsg6 cgroup_sock_addr cgroup_udp6_sendmsg -
cgroup/sendmsg_unix cgroup_sock_addr cgroup_unix_sendmsg -
cgroup/recvmsg4 cgroup_sock_addr cgroup_udp4_recvmsg -
cgroup/recvmsg6 cgroup_sock_addr cgroup_udp6_recvmsg -
cgroup/recvmsg_unix cgroup_sock_addr cgroup_unix_recvmsg -
cgroup/getpeername4 cgroup_sock_addr cgroup_inet4_getpeername -
cgroup/getpeername6 cgroup_sock_addr cgroup_inet6_getpeername -
cgroup/getpeername_unix cgroup_sock_addr cgroup_unix_getpeername -
cgroup/getsockname4 cgroup_sock_addr cgroup_inet4_getsockname -
cgroup/getsockname6 cgroup_sock_addr cgroup_inet6_getsockname -
cgroup/getsockname_unix cgroup_sock_addr cgroup_unix_getsockname -
cgroup/sysctl cgroup_sysctl cgroup_sysctl -
cgroup/getsockopt cgroup_sockopt cgroup_getsockopt -
cgroup/setsockopt cgroup_sockopt cgroup_setsockopt -
cgroup/dev cgroup_device cgroup_device -
struct_ops+ struct_ops - -
struct_ops.s+ struct_ops - s
sk_lookup sk_lookup sk_lookup -
netfilter netfilter netfilter -
"""


def _definitions() -> tuple[SectionKind, ...]:
    rows = (line.split() for line in _TABLE.strip().splitlines())
    return tuple(
        SectionKind(pattern, kind, "" if attach == "-" else attach, "b" in flags, "s" in flags)
        for pattern, kind, attach, flags in rows
    )


DEFINITIONS: Final = _definitions()

# Attach type -> (prefix of the name, kind) of the BTF type that stands for the target.
_PREFIXES: Final = {
    "trace_raw_tp": ("btf_trace_", Kind.TYPEDEF),
    "lsm_mac": ("bpf_lsm_", Kind.FUNC),
    "lsm_cgroup": ("bpf_lsm_", Kind.FUNC),
    "trace_iter": ("bpf_iter_", Kind.FUNC),
}


def section_kind(section: str) -> SectionKind | None:
    """The definition for a section name (without a leading `?`); None when libbpf has none."""
    for definition in DEFINITIONS:
        pattern = definition.pattern
        if pattern.endswith("+"):
            stem = pattern[:-1]
            if section == stem or section.startswith(stem + "/"):
                return definition
        elif section == pattern:
            return definition
    return None


def attach_target(section: str) -> str:
    """What follows the first `/` of a `name/target` section, "" when nothing does."""
    definition = section_kind(section)
    if definition is None or not definition.pattern.endswith("+"):
        return ""
    return section[len(definition.pattern) :]


def btf_target(attach_type: str, target: str) -> tuple[str, Kind]:
    """(name, kind) of the kernel's BTF type that a target such as `tcp_sendmsg` has to have."""
    prefix, kind = _PREFIXES.get(attach_type, ("", Kind.FUNC))
    return prefix + target, kind
