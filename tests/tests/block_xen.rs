//! The block suite over simulated Xen.

pv_tests::block_suite!(pv_tests::suite::XenLab);
