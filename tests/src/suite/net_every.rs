//! The net suite as `#[test]`s over one lab.

/// Makes a test of every promise for the lab named.
#[macro_export]
macro_rules! net_suite {
    ($lab:path) => {
        $crate::net_suite!(@ $lab: net: says_what_it_is moves_every_size
            offloads_in_every_combination refuses_nonsense fills_up starves_and_recovers);
    };
    (@ $lab:path: $module:ident: $($promise:ident)*) => {$(
        #[test]
        fn $promise() {
            $crate::suite::$module::$promise::<$lab>();
        }
    )*};
}
