//! All that the fault handler may call.
#![no_std]
