# SPDX-License-Identifier: GPL-2.0-only
"""Which functions count as machinery, and the names by which functions are compared."""

import pytest

from harness.klog import machinery


@pytest.mark.parametrize(
    ("function", "name"),
    [
        ("__arm64_sys_write", "sys_write"),
        ("__x64_sys_write", "sys_write"),
        ("__do_sys_write", "sys_write"),
        ("SyS_write", "sys_write"),
        ("__do_softirq", "__do_softirq"),
        ("f.isra.0.constprop.1", "f"),
        (".L1", ".L1"),
    ],
)
def test_named_returns_one_name_for_all_architectures(function: str, name: str) -> None:
    assert machinery.named(function) == name


@pytest.mark.parametrize(
    "function",
    [
        *("sysfs_remove_link_from_group", "arm_smmu_write_strtab_ent", "__iommu_group_free_device"),
        *(
            "do_exit",
            "rcu_eqs_enter",
            "iommu_device_unlink",
            "__iommu_probe_device",
            "of_iommu_xlate",
        ),
        *("fq_flush_timeout", "vfio_group_release", "arm_smmu_detach_dev", "viommu_attach_dev"),
        *("schedule_tail", "rtnl_lock", "lock_sock_nested", "kill_fasync", "console_lock"),
        *("__fput", "exit_to_user_mode_loop", "nfsd_reply_cache_free_locked"),
        *("pci_fixup_device", "atomic_pool_expand", "atomic_open", "bitmap_ip_destroy"),
        *("watchdog_open", "watchdog_cdev_register", "clear_page_dirty_for_io"),
        *("get_user_pages", "__get_user_pages_remote", "gic_irq_domain_alloc"),
        *("cfi_amdstd_erase_chip", "led_trigger_set_panic", "rpm_msg_send", "cpuidle_add_state"),
        *("wake_up_session_caps", "wait_on_sem", "preempt_fence_work_func", "tick_work"),
        *("irq_destroy_ipi", "el15203000_cmd", "spurious_threshold_show", "copy_from_read_buf"),
        *("onenand_get_user_prot_info", "set_bitmap_file", "do_raw_setsockopt", "write_unlock_fs"),
        *("raw_local_deliver", "set_tracer_flag", "rb_insert_pages", "__rb_map_vma"),
        *("system_callback", "perf_trace_destroy", "trace_event_reg"),
    ],
)
def test_functions_that_a_splat_can_blame_are_not_machinery(function: str) -> None:
    assert not machinery.is_machinery(function)


@pytest.mark.parametrize(
    "function",
    [
        *("__alloc_frozen_pages_noprof", "___kmalloc_large_node", "get_free_pages_noprof"),
        *("_atomic_dec_and_lock_irqsave", "__alloc_skb", "sk_stream_alloc_skb"),
        *("ldsem_down_write", "pl011_console_write", "uart_console_write"),
        *("rhashtable_lookup_fast", "interval_tree_iter_first", "device_for_each_child"),
        *("rust_helper_BUG", "_RNvCs1x_7___rustc17rust_begin_unwind"),
        *("_RNvNtCs1x_4core9panicking9panic_fmt", "_RNvNtCs1x_4core6option13unwrap_failed"),
        *("__timer_delete_sync", "__sched_text_start", "_stext", "__pfx_feed_one", "sk_stop_timer"),
        *("release_sock", "skb_free_head", "sk_skb_reason_drop"),
        *("dev_alloc_skb", "page_frag_free", "__panic", "__printk_safe_flush"),
        *("ref_tracker_free", "ref_tracker_alloc", "drop_nlink", "kernel_init_free_pages"),
        *("assertfail", "btrfs_assertfail", "device_remove_file", "hwrng_unregister"),
        *("va_format", "devres_release_all", "release_nodes"),
        *("arch_atomic_fetch_add_relaxed", "atomic64_try_cmpxchg", "bitmap_zalloc"),
        *("watchdog_timer_fn", "watchdog", "get_user_nocheck_4", "gic_handle_irq"),
        *("perf_trace_lock_acquire", "trace_event_raw_event_irq", "aic_handle_ipi"),
        *("rpm_resume", "tick_sched_timer", "set_track_prepare", "__rb_erase_color"),
    ],
)
def test_common_helpers_are_machinery(function: str) -> None:
    assert machinery.is_machinery(function)


@pytest.mark.parametrize(
    "function",
    [
        *("print_lock_name", "print_circular_bug_entry", "__bfs", "kthread_insert_work"),
        *("__queue_delayed_work", "queue_work_on", "insert_work", "strnstr", "bitmap_fold"),
        *("tty_ldisc_lock_pair_timeout", "tty_ldisc_unlock", "rng_setkey", "aead_setkey"),
        *("sg_alloc_table", "prb_reserve_in_last", "task_blocks_on_rt_mutex", "seq_buf_putc"),
        *("folio_wait_bit_common", "__folio_lock_killable", "migration_entry_wait_on_locked"),
        *("__lock_buffer", "usleep_range_state", "__const_udelay", "__srcu_read_lock"),
        *("percpu_counter_add_batch", "lockref_get", "sg_next", "nla_put", "__nla_parse"),
        *("memdup_user_nul", "simple_read_from_buffer", "seq_putc", "ip6_addr_string", "vsscanf"),
        *("aes_encrypt", "crypto_shash_update", "sha256_transform_blocks", "gf128mul_4k_lle"),
        *("crypto_cbc_encrypt", "skcipher_walk_done", "scatterwalk_copychunks", "drbg_seed"),
        *(
            "call_rwsem_down_read_failed",
            "__down_common",
            "__down_killable_slowpath",
            "srcu_barrier",
        ),
        *("device_release", "pcpu_create_chunk", "__page_pool_alloc_pages_slow", "kstrndup"),
        *("rb_first_postorder", "rb_add_cached", "hlist_bl_lock", "constant_test_bit"),
        *("filemap_alloc_folio_noprof", "pagecache_get_page", "do_read_cache_folio"),
        *("find_lock_entries", "truncate_inode_pages_range", "sysrq_handle_showallcpus"),
        *("copy_mc_to_user", "probe_kernel_read", "clear_highpage", "folio_zero_range"),
        *("netdev_warn", "_dev_err", "___ratelimit", "__msecs_to_jiffies", "__aeabi_uidiv"),
        *(
            "destroy_work_on_stack",
            "__read_once_word_nocheck",
            "init_timer_on_stack_key",
            "folios_put_refs",
            "crc_ccitt",
        ),
        *("chacha_block_generic", "__crypto_xor", "crypto_cipher_encrypt_one", "keccakf"),
    ],
)
def test_helpers_of_subsystems_and_crypto_transforms_are_machinery(function: str) -> None:
    assert machinery.is_machinery(function)


@pytest.mark.parametrize(
    "function",
    [
        *("crypto_alloc_shash", "crypto_unregister_alg", "crypto_aead_setkey", "aes_probe"),
        *("remove_wait_queue", "add_wait_queue", "blk_mq_get_tag", "print_report_card"),
        *("skb_segment", "usb_get_status", "seq_show", "filemap_fault", "tty_open"),
        *("iov_iter_advance", "iov_iter_revert", "__pskb_pull_tail", "pcpu_freelist_pop"),
        *("lru_add_drain_all", "read_cache_folio", "rb_alloc", "rb_find_event", "divert_one"),
        *("__netif_receive_skb_core", "netif_receive_skb_list", "skb_release_data"),
        *("sysrq_handle_crash", "qlist_free_all", "task_work_run", "smp_call_function_many_cond"),
        *("kcov_remote_start", "truncate_inode_pages", "__put_task_struct"),
        *("__flush_work", "drain_workqueue", "prb_fill_curr_block", "sg_alloc", "sg_open"),
        *("tty_ldisc_hangup", "alg_setkey", "cryptd_hash_setkey"),
        *("hash_accept", "af_alg_accept", "sha_probe", "nla_policy_check", "netdev_run_todo"),
    ],
)
def test_other_functions_of_subsystems_are_not_machinery(function: str) -> None:
    assert not machinery.is_machinery(function)
