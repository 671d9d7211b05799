//! The settings that scenarios are run in: the shape of the NAT instance and the hook that does the work.

use tests::agent::{Agent, Xdp};
use tests::topology::{Offload, Shape, Site, Topology};

/// A shape, a hook, and whether checksums are left to the devices.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub shape: Shape,
    pub xdp: Xdp,
    pub offload: Offload,
}

impl Setting {
    /// TC does all the work, with packets as Linux makes them: unfinished checksums, up to 64 KiB.
    pub const fn tc(shape: Shape) -> Self {
        Self { shape, xdp: Xdp::Off, offload: Offload::On }
    }

    /// TC does all the work, with every packet complete.
    pub const fn tc_complete(shape: Shape) -> Self {
        Self { shape, xdp: Xdp::Off, offload: Offload::Off }
    }

    /// XDP is the fast path.
    pub const fn xdp(shape: Shape) -> Self {
        Self { shape, xdp: Xdp::Native, offload: Offload::Off }
    }

    /// Builds the lab, starts the agent, and runs the scenario.
    pub fn run(self, scenario: impl FnOnce(&mut Topology<'_>, &mut Agent<'_>)) {
        self.run_before_start(|lab, agent| {
            agent.start();
            scenario(lab, agent);
        });
    }

    /// Builds the lab and runs the scenario, the agent not yet started.
    pub fn run_before_start(self, scenario: impl FnOnce(&mut Topology<'_>, &mut Agent<'_>)) {
        let site = Site::new();
        let mut lab = Topology::new(&site, self.shape, self.offload);
        let mut agent = lab.agent(self.xdp);
        scenario(&mut lab, &mut agent);
    }
}

/// Makes a test of each scenario (a function of a [`Setting`]) in every setting.
macro_rules! in_every_setting {
    ($($scenario:ident),+ $(,)?) => { $(
        mod $scenario {
            use crate::setting::Setting;
            use tests::topology::Shape;

            in_every_setting! { @ $scenario
                two_arm_tc = Setting::tc(Shape::TwoArm),
                two_arm_tc_complete = Setting::tc_complete(Shape::TwoArm),
                two_arm_xdp = Setting::xdp(Shape::TwoArm),
                single_arm_tc = Setting::tc(Shape::SingleArm),
                single_arm_xdp = Setting::xdp(Shape::SingleArm),
                tun_tc = Setting::tc(Shape::Tun),
                tun_xdp_inside = Setting::xdp(Shape::Tun),
                ipsec_tc = Setting::tc(Shape::Ipsec),
                wireguard_tc = Setting::tc(Shape::WireGuard),
                #[ignore = "needs the kernel's own ESP, as the guests of `cargo xtask vm` have it"]
                kernel_ipsec_tc = Setting::tc(Shape::KernelIpsec),
                #[ignore = "needs the kernel's own WireGuard, as the guests of `cargo xtask vm` have it"]
                kernel_wireguard_tc = Setting::tc(Shape::KernelWireGuard),
            }
        }
    )+ };
    (@ $scenario:ident $($(#[$attribute:meta])* $name:ident = $setting:expr,)+) => { $(
        #[test]
        $(#[$attribute])*
        fn $name() {
            super::$scenario($setting);
        }
    )+ };
}
