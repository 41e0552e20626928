//! The net suite over simulated Hyper-V.

pv_tests::net_suite!(pv_tests::suite::HyperVNetLab);
