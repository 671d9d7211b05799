//! The core of the lab: the scenarios that say whether a kernel can be trusted with vpnat. Each promise is tried by both
//! hooks where both can, and through the kernel's own IPsec and WireGuard.

/// A promise, and the tests of the lab that try it.
pub const CORE: &[(&str, &[&str])] = &[
    (
        "the lab itself: the kernel's own tunnels carry packets without vpnat",
        &["standin::kernel_ipsec", "standin::kernel_wireguard"],
    ),
    (
        "TCP, UDP and ICMP leave as the egress address, and answers come back to the right pod",
        &[
            "answers::three_pods_from_one_port::two_arm_tc",
            "answers::three_pods_from_one_port::two_arm_xdp",
            "answers::three_pods_from_one_port::single_arm_tc",
            "answers::three_pods_from_one_port::single_arm_xdp",
            "answers::three_pods_from_one_port::tun_tc",
            "answers::three_pods_from_one_port::tun_xdp_inside",
            "answers::three_pods_from_one_port::kernel_ipsec_tc",
            "answers::three_pods_from_one_port::kernel_wireguard_tc",
            "answers::through_any_selectors_xfrm",
            "answers::through_any_selectors_vti",
        ],
    ),
    (
        "transfers as large as the devices take them",
        &["answers::large_transfers::two_arm_tc", "answers::large_transfers::kernel_ipsec_tc"],
    ),
    (
        "who may not talk to the vendor does not, and nobody talks to pods unasked",
        &[
            "refusal::stranger::two_arm_tc",
            "refusal::stranger::kernel_wireguard_tc",
            "refusal::unsolicited::two_arm_xdp",
            "refusal::unsolicited::kernel_ipsec_tc",
            "refusal::other_protocols::two_arm_tc",
        ],
    ),
    (
        "errors and the path MTU reach the pod as if there were no NAT",
        &[
            "errors::closed_port::two_arm_tc",
            "errors::closed_port::two_arm_xdp",
            "errors::traceroute::two_arm_xdp",
            "errors::path_mtu::two_arm_tc",
            "errors::path_mtu::two_arm_xdp",
            "errors::path_mtu::kernel_ipsec_tc",
            "errors::path_mtu::kernel_wireguard_tc",
            "after_translation::row_10_6_3_as_the_kernel_makes_them",
            "after_translation::row_10_6_3_an_xfrm_interface_without_mtu",
            "after_translation::row_10_6_3_ip_in_ip_over_a_small_underlay",
            "after_translation::row_10_6_3_gretap_over_a_small_underlay",
        ],
    ),
    (
        "fragments in any order, and of any number",
        &[
            "fragments::any_order::two_arm_tc",
            "fragments::any_order::two_arm_xdp",
            "fragments::any_order::kernel_ipsec_tc",
            "errors::fragments::kernel_ipsec_tc",
            "errors::fragments::kernel_wireguard_tc",
        ],
    ),
    (
        "no connection is lost when the agent is killed, started again, or another build takes over",
        &[
            "restart::kill_and_start_again::two_arm_tc",
            "restart::kill_and_start_again::two_arm_xdp",
            "restart::kill_and_start_again::kernel_ipsec_tc",
            "restart::kill_and_start_again::kernel_wireguard_tc",
            "migrate::up_and_back_by_tc",
        ],
    ),
    (
        "a reload does what it says or nothing",
        &["reload::vendors_come_and_go_by_tc", "reload::a_bad_file_changes_nothing"],
    ),
    (
        "nothing leaves before the agent is ready, nor by a device that it does not know",
        &[
            "guard::nothing_leaves_before_the_agent_is_ready",
            "guard::a_device_that_comes_later_is_closed",
            "guard::an_outside_device_stacked_on_another",
        ],
    ),
    (
        "no packet of any shape leaves with a wrong source, whatever happens to routes and tunnels",
        &[
            "leaks::every_packet_shape_two_arm_tc",
            "leaks::every_packet_shape_two_arm_xdp",
            "leaks::ways_come_and_go",
            "leaks::a_tunnel_made_anew_at_once",
            "tunnels::kernel_ipsec",
            "tunnels::kernel_wireguard",
            "tunnels::back_while_the_agent_is_down",
        ],
    ),
    (
        "the operator: privileges, configuration, command line, removal",
        &[
            "guard::the_agent_gives_up_what_it_does_not_need",
            "guard::another_user_with_the_capabilities",
            "config::bad_configurations",
            "config::not_root",
            "cli::status_and_flows_while_the_agent_is_down",
            "cli::bpftool_reads_the_flow_table",
            "explain::a_flow_that_would_be::two_arm_tc",
            "doctor::a_tunnel_without_a_policy_for_replies",
            "runbooks::the_tunnel_of_the_setups",
            "detach::detach_removes_everything",
        ],
    ),
    ("what the kernel lacks is named", MISSING),
];

const MISSING: &[&str] = &["missing::type_information", "missing::the_ingress_qdisc"];

/// All that is run on kernels that are too old.
pub const OLD_KERNEL: &str = "missing::an_old_kernel";

/// The names of the core's tests.
pub fn names() -> Vec<String> {
    CORE.iter().flat_map(|(_, tests)| tests.iter()).map(|&name| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_test_is_named_once() {
        let names = names();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    }
}
