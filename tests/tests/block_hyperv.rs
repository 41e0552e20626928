//! The block suite over simulated Hyper-V.

pv_tests::block_suite!(pv_tests::suite::HyperVLab);
