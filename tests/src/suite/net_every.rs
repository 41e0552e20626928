//! The net suite as `#[test]`s over one lab.

/// Makes a test of every promise for the lab named.
#[macro_export]
macro_rules! net_suite {
    ($lab:path) => {
        $crate::net_suite!(@ $lab: net: says_what_it_is moves_every_size
            offloads_in_every_combination refuses_nonsense fills_up starves_and_recovers);
        $crate::net_suite!(@ $lab: net_life: tells_of_the_link tells_of_the_packet_size
            tells_every_queue works_with_many_queues closes_and_reconnects survives_unplugging_at_every_step
            wakes_tasks drops_runts);
        $crate::net_suite!(@ $lab: net_session: carries_tcp_through_a_bad_line
            leaves_nothing_unfinished_on_the_wire);
        $crate::net_suite!(@ $lab: net_costs: costs_one_signal_a_batch sends_long_segments_whole);

        mod model {
            use $crate::suite::net_model::{Action, agrees_with_a_model};
            use proptest::prelude::*;

            fn action() -> impl Strategy<Value = Action> {
                let frame = (0..12u8, prop_oneof![0..100u16, 0..3000u16, 0..60_000u16]);
                prop_oneof![
                    6 => frame.clone().prop_map(|(kind, len)| Action::Send { kind, len }),
                    6 => frame.prop_map(|(kind, len)| Action::Arrive { kind, len }),
                    3 => (1..20u8).prop_map(Action::Receive),
                    2 => (1..20u8, any::<bool>())
                        .prop_map(|(count, oldest)| Action::Drop { count, oldest }),
                    2 => Just(Action::Publish),
                    4 => (1..60u8).prop_map(Action::Step),
                    1 => any::<bool>().prop_map(Action::Stall),
                    1 => Just(Action::Reconnect),
                ]
            }

            proptest! {
                #![proptest_config(ProptestConfig {
                    // Each case boots a machine; an interpreter has no time for many.
                    cases: if cfg!(miri) { 1 } else { 48 },
                    failure_persistence: None,
                    ..ProptestConfig::default()
                })]
                #[test]
                fn carries_what_two_lists_would(
                    actions in prop::collection::vec(action(), 1..if cfg!(miri) { 10 } else { 80 }),
                    seed: u64,
                ) {
                    agrees_with_a_model::<$lab>(&actions, seed);
                }
            }
        }
    };
    (@ $lab:path: $module:ident: $($promise:ident)*) => {$(
        #[test]
        fn $promise() {
            $crate::suite::$module::$promise::<$lab>();
        }
    )*};
}
