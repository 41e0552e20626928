//! The net suite over simulated Xen.

pv_tests::net_suite!(pv_tests::suite::XenNetLab);
