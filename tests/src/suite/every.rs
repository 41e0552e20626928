//! The suite as `#[test]`s over one lab.

/// Makes a test of every promise for the lab named.
#[macro_export]
macro_rules! block_suite {
    ($lab:path) => {
        $crate::block_suite!(@ $lab: block: says_what_it_is moves_every_size scatters_and_gathers
            fills_up completes_out_of_order flushes reports_errors serves_tasks
            keeps_a_read_only_disk refuses_nonsense has_large_sectors costs_one_signal_a_batch);
        $crate::block_suite!(@ $lab: block_life: cancels_at_every_step cancels_futures
            closes_and_reconnects survives_unplugging wakes_a_task_on_unplugging);

        mod model {
            use $crate::suite::block_model::{Action, agrees_with_a_model};
            use proptest::prelude::*;

            fn action() -> impl Strategy<Value = Action> {
                let place = (0u64..260, 1u64..64);
                prop_oneof![
                    4 => (place.clone(), any::<u64>()).prop_map(|((sector, sectors), seed)| {
                        Action::Write { sector, sectors, seed }
                    }),
                    4 => place.prop_map(|(sector, sectors)| Action::Read { sector, sectors }),
                    1 => Just(Action::Flush),
                    1 => Just(Action::Crash),
                    1 => Just(Action::Reconnect),
                ]
            }

            proptest! {
                #![proptest_config(ProptestConfig {
                    // Each case boots a machine; an interpreter has no time for many.
                    cases: if cfg!(miri) { 2 } else { 48 },
                    failure_persistence: None,
                    ..ProptestConfig::default()
                })]
                #[test]
                fn holds_what_an_array_of_bytes_would(
                    actions in prop::collection::vec(action(), 1..24),
                    shuffle: u64,
                ) {
                    agrees_with_a_model::<$lab>(&actions, shuffle);
                }
            }
        }
    };
    (@ $lab:path: $part:ident: $($promise:ident)*) => {$(
        #[test]
        fn $promise() {
            $crate::suite::$part::$promise::<$lab>();
        }
    )*};
}
