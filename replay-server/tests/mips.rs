//! Real gdb over a recording of a MIPS guest, in both byte orders, with nothing set but `target remote`. What the guest does
//! is written down in `timeline/tests/support/mips.rs`.

mod support;

#[path = "../../timeline/tests/support/mips.rs"]
#[allow(dead_code)]
mod guest;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;

use guest::{LOOP_POSITION, TURNS, record};
use ktrace_format::header::ByteOrder;
use ktrace_format::header::ByteOrder::{Big, Little};
use ktrace_timeline::Recording;
use replay_server::Server;
use support::{RawClient, gdb};

fn start_server(directory: PathBuf) -> SocketAddr {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let recording = Recording::open(&directory).expect("a trace");
        let server = Server::bind("127.0.0.1", 0, Box::new(recording)).expect("a free port");
        sender.send(server.address().expect("an address")).expect("the test waits for it");
        server.run()
    });
    receiver.recv().expect("the server started")
}

fn session(order: ByteOrder, commands: &[&str]) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    record(directory.path(), order);
    let server = start_server(directory.path().to_owned());
    let output = gdb(server, &[&["target remote"], commands].concat());
    let lines: Vec<String> =
        output.lines().filter(|line| line.starts_with("> ")).map(str::to_owned).collect();
    assert!(!lines.is_empty(), "{output}");
    lines
}

const WHERE: &str = r#"printf "> %lu pc %#x t2 %d\n", $ktpos, $pc, $t2"#;

#[test]
fn delay_slots_are_stepped_through_in_both_directions() {
    for order in [Little, Big] {
        let lines = session(
            order,
            &[
                WHERE,
                "stepi 3",
                WHERE,
                "stepi",
                WHERE,
                "stepi",
                WHERE,
                "reverse-stepi",
                WHERE,
                "reverse-stepi",
                WHERE,
                "stepi 9",
                WHERE,
                "stepi",
                WHERE,
            ],
        );
        let expected = [
            "> 0 pc 0x80001000 t2 4106",
            "> 3 pc 0x8000100c t2 4106",
            "> 4 pc 0x80001010 t2 4106",
            "> 5 pc 0x80001020 t2 6",
            "> 4 pc 0x80001010 t2 4106",
            "> 3 pc 0x8000100c t2 4106",
            "> 12 pc 0x8000103c t2 6",
            "> 13 pc 0x80001060 t2 16",
        ];
        assert_eq!(lines, expected, "{order:?}");
    }
}

#[test]
fn registers_and_memory_are_in_the_guests_order() {
    for order in [Little, Big] {
        let lines = session(
            order,
            &[
                r#"printf "> %#x %#x %#x %#x\n", $status, $badvaddr, $lo, $fir"#,
                r#"printf "> %#x %#x\n", *(unsigned *) 0x80002000, *(unsigned char *) 0xa0002003"#,
                "stepi 15",
                "stepi 2",
                r#"printf "> %lu pc %#x status %#x badvaddr %#x cause %#x\n", $ktpos, $pc, $status, $badvaddr, $cause"#,
                "stepi",
                r#"python print("> cause", gdb.parse_and_eval("$cause"), "pc", gdb.parse_and_eval("$pc"))"#,
            ],
        );
        let word = if order == Big { "0x11223344" } else { "0x44332211" };
        let expected = [
            "> 0x400000 0x1023 0x1021 0x1047".to_owned(),
            format!("> {word} 0x44"),
            "> 17 pc 0x80000180 status 0x400002 badvaddr 0x105 cause 0x80008710".to_owned(),
            "> cause <unavailable> pc 0x80000184".to_owned(),
        ];
        assert_eq!(lines, expected, "{order:?}");
    }
}

#[test]
fn breakpoints_are_hit_in_both_directions() {
    for order in [Little, Big] {
        let lines = session(
            order,
            &[
                "break *0x80001080",
                "continue",
                WHERE,
                "continue 2",
                WHERE,
                "reverse-continue",
                WHERE,
                "delete",
                "hbreak *0x80001020",
                "reverse-continue",
                WHERE,
            ],
        );
        let turn = |turn: u64| format!("> {} pc 0x80001080 t2 16", LOOP_POSITION + 3 * turn);
        let expected = [turn(0), turn(TURNS - 1), turn(TURNS - 2), "> 5 pc 0x80001020 t2 6".to_owned()];
        assert_eq!(lines, expected, "{order:?}");
    }
}

#[test]
fn the_packets_have_the_guests_byte_order() {
    for (order, pc, position) in
        [(Little, "00100080", "0000000000000000"), (Big, "80001000", "0000000000000000")]
    {
        let directory = tempfile::tempdir().unwrap();
        record(directory.path(), order);
        let mut client = RawClient::connect_quietly(start_server(directory.path().to_owned()));
        let all = client.ask("g");
        assert_eq!(all.len(), 2 * (72 * 4 + 8));
        assert_eq!((&all[8 * 37..8 * 38], &all[8 * 72..]), (pc, position));
        assert_eq!(client.ask("p25"), pc);
        // gdb sends addresses of the kernel's segments sign-extended.
        assert_eq!(client.ask("mffffffff80002000,4"), "11223344");
        assert_eq!(client.ask("ma0002004,4"), "55667788");
        assert_eq!(client.ask("Z0,ffffffff80001080,5"), "OK");
        let stopped = client.ask("vCont;c");
        let expected = if order == Big { "25:80001080" } else { "25:80100080" };
        assert!(stopped.contains(expected), "{stopped}");
        let xml = client.ask("qXfer:features:read:target.xml:0,fff");
        let endian = if order == Big { "<endian>big</endian>" } else { "<endian>little</endian>" };
        for part in
            [endian, "<architecture>mips</architecture>", "<osabi>none</osabi>", "org.gnu.gdb.mips.cp0"]
        {
            assert!(xml.contains(part), "{part} is missing in {xml}");
        }
    }
}
