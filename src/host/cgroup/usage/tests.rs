use super::*;
use crate::host::cgroup::Hierarchy;
use crate::host::cgroup::slices::Slices;
use indoc::indoc;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

/// A machine whose hierarchies lie in a folder of files.
fn machine(version: Version, hierarchies: &[(&str, &[&str], bool)], root: &Path) -> Cgroups {
    let hierarchies = hierarchies
        .iter()
        .map(|(mount, controllers, unified)| Hierarchy {
            mount: root.join(mount),
            controllers: controllers.iter().map(|c| (*c).to_owned()).collect(),
            unified: *unified,
            base: String::new(),
        });
    Cgroups {
        version,
        hierarchies: hierarchies.collect(),
        holders: Mutex::default(),
        files: Files::default(),
        huge_page_sizes: std::sync::OnceLock::new(),
        slices: Slices::new(),
    }
}

fn write(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn v2(files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroups) {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), files);
    let cgroups = machine(Version::V2, &[("", &[], true)], dir.path());
    (dir, cgroups)
}

const PRESSURE: &str = indoc! {"
    some avg10=1.25 avg60=0.50 avg300=0.10 total=181817
    full avg10=0.75 avg60=0.25 avg300=0.05 total=90042
"};

/// As read on a machine with Linux 6.12 and systemd.
#[test]
fn version_2_as_recorded() {
    let memory_stat = indoc! {"
        anon 1134592
        file 4517888
        kernel 372736
        kernel_stack 32768
        pagetables 53248
        sec_pagetables 0
        percpu 480
        sock 0
        vmalloc 0
        shmem 0
        zswap 0
        zswapped 0
        file_mapped 2838528
        file_dirty 0
        file_writeback 0
        swapcached 0
        anon_thp 2097152
        file_thp 0
        shmem_thp 0
        inactive_anon 1097728
        active_anon 12288
        inactive_file 3534848
        active_file 983040
        unevictable 0
        slab_reclaimable 141816
        slab_unreclaimable 78024
        slab 219840
        pgfault 3414
        pgmajfault 41
    "};
    let (_dir, cgroups) = v2(&[
        (
            "p/c/cpu.stat",
            indoc! {"
                usage_usec 2104893
                user_usec 1520311
                system_usec 584582
                nice_usec 0
                core_sched.force_idle_usec 0
                nr_periods 112
                nr_throttled 7
                throttled_usec 431002
                nr_bursts 0
                burst_usec 0
            "},
        ),
        ("p/c/memory.current", "6115328\n"),
        ("p/c/memory.max", "67108864\n"),
        ("p/c/memory.stat", memory_stat),
        ("p/c/memory.swap.current", "8192\n"),
        ("p/c/memory.swap.max", "1048576\n"),
        ("p/c/memory.peak", "7331840\n"),
        (
            "p/c/memory.events",
            "low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n",
        ),
        ("p/c/pids.current", "3\n"),
        ("p/c/pids.max", "max\n"),
        ("p/c/cpu.pressure", PRESSURE),
        ("p/c/memory.pressure", PRESSURE),
        (
            "p/c/io.stat",
            "254:0 rbytes=4218880 wbytes=8192 rios=97 wios=2 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n",
        ),
        ("p/c/hugetlb.2MB.current", "4194304\n"),
        ("p/c/hugetlb.2MB.rsvd.current", "0\n"),
        ("p/c/hugetlb.2MB.max", "max\n"),
        ("p/c/hugetlb.1GB.current", "0\n"),
    ]);
    let path = "/p/c";
    assert_eq!(cgroups.cpu_usage(path).unwrap(), Some(2_104_893_000));
    let time = cgroups.cpu_time(path).unwrap().unwrap();
    let expected = CpuTime {
        total: 2_104_893_000,
        user: 1_520_311_000,
        system: 584_582_000,
        periods: 112,
        throttled_periods: 7,
        throttled: 431_002_000,
    };
    assert_eq!(time, expected);
    let memory = cgroups.memory(path).unwrap().unwrap();
    assert_eq!((memory.usage, memory.limit), (6_115_328, Some(67_108_864)));
    assert_eq!(memory.working_set(), 6_115_328 - 3_534_848);
    assert_eq!(memory.available(), Some(67_108_864 - 6_115_328 + 3_534_848));
    assert_eq!((memory.stat.rss, memory.stat.cache), (1_134_592, 4_517_888));
    assert_eq!(
        (memory.stat.page_faults, memory.stat.major_page_faults),
        (3414, 41)
    );
    assert_eq!(
        (memory.stat.anon_thp, memory.stat.mapped_file),
        (2_097_152, 2_838_528)
    );
    let swap = memory.swap.unwrap();
    assert_eq!(
        (swap.usage, swap.available()),
        (8192, Some(1_048_576 - 8192))
    );
    let extremes = cgroups.memory_extremes(path).unwrap().unwrap();
    assert_eq!((extremes.peak, extremes.limit_hits), (Some(7_331_840), 12));
    assert_eq!((extremes.kernel, memory.stat.kernel), (None, Some(372_736)));
    let tasks = cgroups.tasks(path).unwrap().unwrap();
    assert_eq!((tasks.current, tasks.limit), (3, None));
    let pressure = cgroups.pressure(path).unwrap();
    assert_eq!(pressure.cpu.unwrap().some.total, 181_817);
    assert_eq!(pressure.memory.unwrap().full.avg10, 0.75);
    assert_eq!(pressure.io, None, "the machine has no such file");
    let io = cgroups.io(path).unwrap();
    let disk = DeviceIo {
        read_bytes: 4_218_880,
        write_bytes: 8192,
        reads: 97,
        writes: 2,
    };
    assert_eq!((io.len(), io[&(254, 0)]), (2, disk));
    let pages = cgroups.huge_pages(path).unwrap();
    let found: Vec<_> = pages
        .iter()
        .map(|p| (p.size.as_str(), p.usage, p.peak))
        .collect();
    assert_eq!(found, [("1GB", 0, None), ("2MB", 4_194_304, None)]);
}

/// As read on a machine with Linux 6.18, with cgroup2 beside it.
#[test]
fn version_1_as_recorded() {
    let memory_stat = indoc! {"
        cache 13238272
        rss 10739712
        inactive_file 114688
        hierarchical_memory_limit 67108864
        hierarchical_memsw_limit 9223372036854771712
        total_cache 19210133
        total_rss 2926968
        total_rss_huge 2097152
        total_shmem 112623616
        total_mapped_file 517562
        total_dirty 590430208
        total_swap 4096
        total_pgpgin 411276101
        total_pgfault 447081704
        total_pgmajfault 84768
        total_inactive_anon 301650
        total_active_anon 461209
        total_inactive_file 12992192
        total_active_file 6105317376
        total_unevictable 18374656
    "};
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[
            ("cpuacct/c/cpuacct.usage", "2104893001\n"),
            (
                "cpuacct/c/cpuacct.usage_all",
                "cpu user system\n0 1520311000 584000000\n1 1 582000\n",
            ),
            (
                "cpu/c/cpu.stat",
                "nr_periods 112\nnr_throttled 7\nthrottled_time 431002\n",
            ),
            ("memory/c/memory.usage_in_bytes", "22137101\n"),
            ("memory/c/memory.limit_in_bytes", "67108864\n"),
            (
                "memory/c/memory.memsw.limit_in_bytes",
                "9223372036854771712\n",
            ),
            ("memory/c/memory.stat", memory_stat),
            ("memory/c/memory.max_usage_in_bytes", "30000000\n"),
            ("memory/c/memory.failcnt", "5\n"),
            ("memory/c/memory.kmem.usage_in_bytes", "372736\n"),
            ("pids/c/pids.current", "3\n"),
            ("pids/c/pids.max", "100\n"),
            (
                "blkio/c/blkio.throttle.io_service_bytes_recursive",
                "8:0 Read 4218880\n8:0 Write 8192\n8:0 Sync 4227072\n8:0 Async 0\n8:0 Total 4227072\nTotal 4227072\n",
            ),
            (
                "blkio/c/blkio.throttle.io_serviced_recursive",
                "8:0 Read 97\n8:0 Write 2\n8:0 Sync 99\n8:0 Async 0\n8:0 Total 99\nTotal 99\n",
            ),
            ("unified/c/cgroup.events", "populated 1\nfrozen 0\n"),
            ("unified/c/cpu.pressure", PRESSURE),
            ("unified/empty/cgroup.events", "populated 0\nfrozen 0\n"),
            (
                "unified/empty/cpu.pressure",
                "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
            ),
        ],
    );
    let names = ["cpuacct", "cpu", "memory", "pids", "blkio"];
    let controllers = names.map(|name| [name]);
    let mut mounts: Vec<(&str, &[&str], bool)> = Vec::new();
    mounts.extend(
        names
            .iter()
            .zip(&controllers)
            .map(|(n, c)| (*n, c.as_slice(), false)),
    );
    mounts.push(("unified", &[], true));
    let cgroups = machine(Version::V1, &mounts, dir.path());
    let path = "/c";
    assert_eq!(cgroups.cpu_usage(path).unwrap(), Some(2_104_893_001));
    let time = cgroups.cpu_time(path).unwrap().unwrap();
    assert_eq!((time.user, time.system), (1_520_311_001, 584_582_000));
    assert_eq!(
        (time.periods, time.throttled_periods, time.throttled),
        (112, 7, 431_002)
    );
    let memory = cgroups.memory(path).unwrap().unwrap();
    assert_eq!(memory.working_set(), 22_137_101 - 12_992_192);
    assert_eq!(memory.limit, Some(67_108_864));
    assert_eq!(
        (memory.stat.rss, memory.stat.cache),
        (2_926_968, 19_210_133)
    );
    assert_eq!(
        (memory.stat.page_faults, memory.stat.major_page_faults),
        (447_081_704, 84_768)
    );
    let swap = memory.swap.unwrap();
    assert_eq!((swap.usage, swap.limit), (4096, None));
    let extremes = cgroups.memory_extremes(path).unwrap().unwrap();
    assert_eq!((extremes.peak, extremes.limit_hits), (Some(30_000_000), 5));
    let tasks = cgroups.tasks(path).unwrap().unwrap();
    assert_eq!((tasks.current, tasks.limit), (3, Some(100)));
    let disk = DeviceIo {
        read_bytes: 4_218_880,
        write_bytes: 8192,
        reads: 97,
        writes: 2,
    };
    assert_eq!(cgroups.io(path).unwrap(), BTreeMap::from([((8, 0), disk)]));
    assert_eq!(
        cgroups.pressure(path).unwrap().cpu.unwrap().some.total,
        181_817
    );
    assert_eq!(cgroups.pressure("/empty").unwrap(), Pressure::default());
    assert_eq!(cgroups.huge_pages(path).unwrap(), []);
}

#[test]
fn what_is_not_there_is_not_zero_and_what_makes_no_sense_is_an_error() {
    let (dir, cgroups) = v2(&[
        ("odd/cpu.stat", "usage_usec many\n"),
        ("odd/memory.current", "\n"),
        ("odd/io.stat", "nothing rbytes=1\n"),
        ("odd/cpu.pressure", "some avg10\n"),
        ("odd/pids.current", "-1\n"),
    ]);
    assert_eq!(cgroups.cpu_usage("/gone").unwrap(), None);
    assert_eq!(cgroups.memory("/gone").unwrap(), None);
    assert_eq!(cgroups.tasks("/gone").unwrap(), None);
    assert_eq!(cgroups.pressure("/gone").unwrap(), Pressure::default());
    assert!(cgroups.io("/gone").unwrap().is_empty());
    assert!(cgroups.huge_pages("/gone").unwrap().is_empty());
    let error = cgroups.cpu_usage("/odd").unwrap_err().to_string();
    let file = dir.path().join("odd/cpu.stat").display().to_string();
    assert!(error.contains(&file), "{error}");
    assert!(cgroups.memory("/odd").is_err());
    assert!(cgroups.io("/odd").is_err());
    assert!(cgroups.pressure("/odd").is_err());
    assert!(cgroups.tasks("/odd").is_err());
}

#[test]
fn a_sum_has_no_limit() {
    let one = Memory {
        usage: 10,
        limit: Some(20),
        stat: MemoryStat {
            rss: 1,
            inactive_file: 4,
            ..MemoryStat::default()
        },
        swap: Some(Swap {
            usage: 3,
            limit: Some(4),
        }),
    };
    let both = one.plus(one);
    assert_eq!((both.usage, both.working_set(), both.stat.rss), (20, 12, 2));
    assert_eq!(
        (both.available(), both.swap.unwrap().available()),
        (None, None)
    );
}

/// The real accounts of this process, whatever layout the machine has.
#[test]
fn the_machines_own_files_are_understood() {
    let Ok(cgroups) = Cgroups::detect() else {
        panic!("no cgroup file system is mounted");
    };
    // The root of version 2 has no accounts of its own, that of version 1 has.
    if cgroups.version() == Version::V1 {
        assert!(cgroups.cpu_usage("/").unwrap().is_some_and(|ns| ns > 0));
        assert!(cgroups.memory("/").unwrap().is_some_and(|m| m.usage > 0));
    } else {
        assert!(cgroups.cpu_usage("/").unwrap().is_some_and(|ns| ns > 0));
    }
    cgroups.io("/").unwrap();
    cgroups.huge_pages("/").unwrap();
}
