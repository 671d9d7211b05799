//! ICMP errors: the pod sees who sent them, and its own packet quoted.

use tests::topology::{GATEWAY, NAT, Shape, VENDOR, VPC};

use crate::setting::Setting;

in_every_setting! { traceroute }

/// The TTL ends at the instance, behind it, and not at all: each hop is named, whichever hook works.
fn traceroute(setting: Setting) {
    setting.run(|lab, _| {
        for pod in &lab.pods {
            let hops = pod.traceroute(VENDOR, 6);
            match setting.shape {
                Shape::TwoArm => assert_eq!(hops, [Some(GATEWAY), Some(VPC), Some(VENDOR)]),
                Shape::SingleArm => assert_eq!(hops, [Some(GATEWAY), Some(NAT), Some(VPC), Some(VENDOR)]),
                // The vendor's gateway answers from one of its addresses.
                _ => {
                    assert_eq!(hops.len(), 3, "{hops:?}");
                    assert_eq!((hops[0], hops[2]), (Some(GATEWAY), Some(VENDOR)));
                    assert!(hops[1].is_some(), "{hops:?}");
                }
            }
        }
    });
}
