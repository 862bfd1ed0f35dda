//! Clients that behave badly, or just unlike gdb: none of them ends a session, much less the server.

mod support;

use std::net::SocketAddr;
use std::sync::LazyLock;

use proptest::prelude::*;
use replay_server::framing::{self, Event, PACKET_SIZE};
use support::recording::SyntheticRecording;
use support::{RawClient, start_server};

/// All registers at position 0, as the `g` packet has them.
fn registers_at_start() -> String {
    let mut registers = String::new();
    for word in [0, 0].into_iter().chain((2..13).map(|number| 0x1111_0000 + number)) {
        registers += &hexadecimal(word);
    }
    for word in [0x2_0000, 0xffff_ffff, 0x8000, 0x1d3, 0, 0] {
        registers += &hexadecimal(word);
    }
    registers
}

fn hexadecimal(word: u32) -> String {
    format!("{:08x}", word.swap_bytes())
}

#[track_caller]
fn assert_is_error(answer: &str) {
    assert!(answer.starts_with('E') && answer.len() >= 3, "`{answer}` is no error");
}

/// `gdb-notes.md` 1.4: what ends a session of plain gdbstub 0.7.10, and what the answer must look like here.
#[test]
fn packets_that_would_end_a_session_of_gdbstub_do_not() {
    let server = start_server(SyntheticRecording::short());
    let mut client = RawClient::connect_quietly(server);
    for packet in [
        "m8000",
        "m",
        "m8000,4,4",
        "m123456789,4",
        "m11112222333344445555,4",
        "Z0,8000",
        "Zfoo",
        "Z",
        "Z9,8000,4",
        "Z0,8000,4;X1,27",
        "Z0,8000,4;X3,2200",
        "Z0,8000,4;X3,220027;cmds:0,X3,220027",
        "z0,8000,4;X3,220027",
        "x8000",
        "x0,4",
        "x123456789,4",
        "qSearch:memory:0",
        "qSearch:memory:0;100;",
        "qSearch:memory:123456789;100;a",
        "Z0,1123456789abcdef0,4",
        "bcx",
        "bsx",
        "b",
        "vCont;t",
        "vCont;t:p1.1",
        "vCont",
        "vCont;",
        "vCont;x",
        "vCont;s:p1.7",
        "vCont;r8000",
        "vCont;r8000,123456789",
        "vCont;;s",
        "Hg7",
        "Hgp2.1",
        "Hx0",
        "H",
        "T",
        "T9",
        "g;thread:7;",
        "gg",
        "p",
        "p-1",
        "pffffffffffffffffff",
        "p999",
        "c8000",
        "s!",
        "D1",
        "qRcmd,7",
        "qRcmd",
        "qXfer:features:read:target.xml",
        "qXfer:features:read:target.xml:zz,4",
        "qXfer:features:read:other.xml:0,4",
        "vKill;",
        "vKill;x",
        "P0=00000000",
        "G00",
        "M8000,1:00",
        "X8000,0:",
        "?x",
        "k1",
    ] {
        assert_is_error(&client.ask(packet));
        assert_eq!(client.ask("g"), registers_at_start(), "after {packet}");
    }
    for packet in ["", "QTFrame:-1", "QTFrame:ffffffff", "!", "vMustReplyEmpty", "R00"] {
        assert_eq!(client.ask(packet), "", "{packet}");
        assert_eq!(client.ask("g"), registers_at_start(), "after {packet}");
    }
    for packet in [
        "Hc-1",
        "Hg-1",
        "Hgp1.-1",
        "Hcp1.0",
        "T1",
        "Z0,9000,1",
        "z0,9000,1",
        "z0,9000,1",
        "Z1,9000,9",
        "Z2,9000,4",
        "z2,9000,4",
        "z4,9000,4",
    ] {
        assert_eq!(client.ask(packet), "OK", "{packet}");
        assert_eq!(client.ask("g"), registers_at_start(), "after {packet}");
    }
    assert_eq!(client.ask("g;thread:1;"), registers_at_start());
    let supported = client.ask("qSupported");
    assert!(supported.starts_with("PacketSize=040000;"), "{supported}");
    let supported = client.ask("qSupported:");
    assert!(supported.contains(";ReverseContinue+;ReverseStep+;swbreak+;hwbreak+;"), "{supported}");
    assert!(supported.ends_with(";ConditionalBreakpoints+;binary-upload+"), "{supported}");
    assert_eq!(client.ask("QStartNoAckMode"), "OK");
}

#[test]
fn resumes_in_the_forms_of_other_clients() {
    let server = start_server(SyntheticRecording::short());
    let mut client = RawClient::connect_quietly(server);
    assert_eq!(client.ask("Hc-1"), "OK");
    for (packet, position) in [
        ("s", 1),
        ("S05", 2),
        ("vCont;s", 3),
        ("vCont;s:1", 4),
        ("vCont;s:p1.1;c", 5),
        ("bs", 4),
        ("vCont;S0b:1;c", 5),
        // Sign-extended, as gdb sends it for MIPS; outside the range after one instruction.
        ("vCont;rffffffff80001118,ffffffff80001128:1", 6),
        ("vCont;r8008,8018:1", 22),
        ("C05", 26),
        ("bc", 0),
    ] {
        let stop = client.ask(packet);
        assert!(stop.starts_with('T'), "{packet}: {stop}");
        let told = format!("1a:{:016x};", u64::swap_bytes(position));
        assert!(stop.contains(&told), "{packet}: {stop} has no {told}");
        assert!(stop.contains("thread:01;"), "{packet}: {stop}");
    }
}

#[test]
fn damaged_packets_are_asked_for_again_and_replies_repeated() {
    let server = start_server(SyntheticRecording::short());
    let mut client = RawClient::connect(server);
    client.send(b"$g#00");
    assert_eq!(client.receive(), Some(Event::RetransmissionWanted));
    client.send(b"$qC#zz");
    assert_eq!(client.receive(), Some(Event::RetransmissionWanted));
    client.send_packet(b"qC");
    assert_eq!(client.receive(), Some(Event::Acknowledged));
    assert_eq!(client.receive(), Some(Event::Packet(b"QC1".to_vec())));
    client.send(b"-");
    assert_eq!(client.receive(), Some(Event::Packet(b"QC1".to_vec())));
    assert_eq!(client.ask("QStartNoAckMode"), "OK");
    client.send(b"+-");
    client.send(b"$g#00");
    assert_eq!(client.receive_packet().as_deref(), Some("E22"));
    assert_eq!(client.ask("qC"), "QC1");
}

#[test]
fn errors_are_in_words_for_clients_that_know_them() {
    let server = start_server(SyntheticRecording::short());
    let mut client = RawClient::connect_quietly(server);
    assert_eq!(client.ask("m8000"), "E22");
    client.ask("qSupported:error-message+;multiprocess+");
    assert_eq!(client.ask("m8000"), "E.malformed packet");
    assert_eq!(client.ask("qfThreadInfo"), "mp01.01");
    assert_eq!(client.ask("m0,4"), "E14");
}

#[test]
fn long_packets_and_reads_are_bounded() {
    let server = start_server(SyntheticRecording::short());
    let mut client = RawClient::connect_quietly(server);
    assert_is_error(&client.ask(&"a".repeat(PACKET_SIZE)));
    assert_eq!(client.ask(&"a".repeat(PACKET_SIZE - 4)), "");
    assert_is_error(&client.ask(&format!("m{}", "1".repeat(PACKET_SIZE - 8))));
    // 32 bytes of program are known; no client gets more than there is.
    assert_eq!(client.ask("m8000,ffffffffffffffff").len(), 64);
    assert_eq!(client.ask("mfffffffe,10"), "3412");
    assert_eq!(client.ask("xfffffffe,10"), "b4\u{12}");
    assert_eq!(client.ask("qC"), "QC1");
}

#[test]
fn memory_arrives_in_binary() {
    let server = start_server(SyntheticRecording::short());
    let mut client = RawClient::connect_quietly(server);
    // What lldb asks to find out whether this is the old `x` without the `b`, which it would be if the answer were OK.
    assert_eq!(client.ask("x0,0"), "b");
    client.send_packet(b"x8018,ffffffff");
    let expected = [b'b', 0x00, 0x20, 0xa0, 0xe1, 0xfe, 0xff, 0xff, 0xea];
    assert_eq!(client.receive(), Some(Event::Packet(expected.to_vec())));
}

#[test]
fn memory_is_searched_and_the_search_can_be_interrupted() {
    let server = start_server(SyntheticRecording::short());
    let mut client = RawClient::connect_quietly(server);
    client.send_packet(b"qSearch:memory:0;ffffffff;\x00\xa0\xe3");
    assert_eq!(client.receive_packet().as_deref(), Some("1,8001"));
    assert_eq!(client.ask("qSearch:memory:8000;20;nowhere"), "0");
    for interrupt in [&b"\x03"[..], b"\x03\x03"] {
        client.send_packet(b"qSearch:memory:0;ffffffff;nowhere");
        client.send(interrupt);
        assert_eq!(client.receive_packet().as_deref(), Some("E04"));
    }
    assert_eq!(client.ask("qC"), "QC1");
}

#[test]
fn a_monitor_command_can_be_interrupted() {
    let server = start_server(SyntheticRecording::endless());
    let mut client = RawClient::connect_quietly(server);
    // `events io`, of which there are none in 2^40 positions.
    client.send_packet(b"qRcmd,6576656e747320696f");
    client.send(b"\x03");
    let text = client.receive_packet().expect("the session lives");
    // How far it had come is a matter of luck; only that it says so is not.
    let hexadecimal = |text: &[u8]| framing::hexadecimal(text).to_string();
    let begins = format!("O{}", hexadecimal(b"interrupted at position "));
    let ends = hexadecimal(b": there may be more from there on\n");
    assert!(text.starts_with(&begins) && text.ends_with(&ends), "{text}");
    assert_eq!(client.receive_packet().as_deref(), Some("OK"));
}

#[test]
fn conditions_are_kept_until_the_breakpoint_is_set_anew() {
    let server = start_server(SyntheticRecording::short());
    let mut client = RawClient::connect_quietly(server);
    let mut stop = |set: &str, resume: &str| {
        assert_eq!(client.ask(set), "OK", "{set}");
        let stop = client.ask(resume);
        let (_, position) = stop.split_once("1a:").expect("the position");
        u64::from_str_radix(&position[..16], 16).expect("a number").swap_bytes()
    };
    // r0 == 3, or r0 == 4; then another one, none, and one that can't be decided since there is no register 99.
    assert_eq!(stop("Z0,8010,4;X7,26000022031327", "c"), 12);
    assert_eq!(stop("Z0,8010,4;X7,26000022021327X7,26000022041327", "c"), 16);
    assert_eq!(stop("Z0,8010,4;X7,26000022021327X7,26000022041327", "bc"), 8);
    assert_eq!(stop("Z0,8010,4", "c"), 12);
    assert_eq!(stop("Z0,8010,4;X4,26006327", "c"), 16);
    assert_eq!(stop("z0,8010,4", "c"), 26);
}

#[test]
fn unknown_registers_are_told_as_unknown() {
    let server = start_server(SyntheticRecording::short().without_register(12));
    let mut client = RawClient::connect_quietly(server);
    assert_eq!(client.ask("pc"), "xxxxxxxx");
    assert_eq!(client.ask("pf"), "00800000");
    assert_eq!(client.ask("p1a"), "0000000000000000");
    assert_eq!(client.ask("g")[96..104], *"xxxxxxxx");
    let stop = client.ask("?");
    assert!(stop.contains(";0b:0b001111;0d:00000200;"), "{stop}: register 0c is left out");
}

#[test]
fn the_target_description_arrives_whole_in_pieces() {
    let server = start_server(SyntheticRecording::short());
    let mut client = RawClient::connect_quietly(server);
    let mut xml = String::new();
    loop {
        let piece = client.ask(&format!("qXfer:features:read:target.xml:{:x},61", xml.len()));
        let (more, text) = piece.split_at(1);
        xml += text;
        if more == "l" {
            break;
        }
    }
    assert!(xml.starts_with("<?xml") && xml.ends_with("</target>\n"), "{xml}");
    assert_eq!(xml.matches("<reg ").count(), 18);
    assert_eq!(client.ask("qXfer:features:read:target.xml:ffffffffffffffff,61"), "l");
}

/// A stop reply, past lines for the console; none of the two is `OK`.
fn stop_reply(client: &mut RawClient) -> String {
    loop {
        let packet = client.receive_packet().expect("the session lives");
        if !packet.starts_with('O') {
            return packet;
        }
    }
}

#[test]
fn an_interrupt_stops_a_run_and_says_where() {
    let server = start_server(SyntheticRecording::endless());
    let mut client = RawClient::connect_quietly(server);
    for (resume, interrupt_at_once) in [("vCont;c", false), ("vCont;c", true), ("c", false)] {
        if interrupt_at_once {
            client.send(b"$vCont;c#a8\x03");
        } else {
            client.send_packet(resume.as_bytes());
            // The run is under way, or about to begin; the interrupt must work either way.
            client.send(b"\x03");
        }
        let console = client.receive_packet().expect("the session lives");
        assert!(console.starts_with('O'), "{console}");
        let stop = client.receive_packet().expect("the session lives");
        assert!(stop.starts_with("T02thread:"), "{stop}");
        assert!(stop.contains(";1a:"), "{stop} tells the position");
    }
    // Too late: nothing runs. The next resume must not stop because of it.
    client.send(b"\x03");
    assert!(client.ask("vCont;s").starts_with("T05"));
    client.send(b"\x03\x03");
    client.send_packet(b"bc");
    client.send(b"\x03");
    let stop = stop_reply(&mut client);
    assert!(stop.starts_with("T02") || stop.contains("replaylog:begin"), "{stop}");
}

#[test]
fn a_client_that_vanishes_while_the_guest_runs_leaves_a_server_for_the_next() {
    let server = start_server(SyntheticRecording::endless());
    for _ in 0..3 {
        let mut client = RawClient::connect_quietly(server);
        client.send_packet(b"c");
    }
    let mut client = RawClient::connect_quietly(server);
    assert_eq!(client.ask("qC"), "QC1");
}

#[test]
fn breakpoints_leave_with_their_client_and_the_position_stays() {
    let server = start_server(SyntheticRecording::short());
    let mut client = RawClient::connect_quietly(server);
    assert_eq!(client.ask("Z0,8008,4"), "OK");
    assert!(client.ask("c").starts_with("T05thread:01;swbreak:;"));
    drop(client);
    let mut client = RawClient::connect_quietly(server);
    assert_eq!(client.ask("p1a"), "0200000000000000");
    assert!(client.ask("c").contains("replaylog:end;"));
    assert_eq!(client.ask("D"), "OK");
    assert_eq!(client.receive(), None);
    for kill in ["k", "vKill;1"] {
        let mut client = RawClient::connect_quietly(server);
        client.send_packet(kill.as_bytes());
        if kill != "k" {
            assert_eq!(client.receive_packet().as_deref(), Some("OK"));
        }
        assert_eq!(client.receive(), None);
    }
    assert_eq!(RawClient::connect_quietly(server).ask("p1a"), "1a00000000000000");
}

/// One server for all the cases of a property, since the point is that it survives them all.
static ABUSED_SERVER: LazyLock<SocketAddr> = LazyLock::new(|| start_server(SyntheticRecording::short()));

#[track_caller]
fn assert_serves_well(server: SocketAddr) {
    let mut client = RawClient::connect_quietly(server);
    assert_eq!(client.ask("qAttached"), "1");
    // "goto start", as somebody may have moved.
    client.send_packet(b"qRcmd,676f746f207374617274");
    while client.receive_packet().expect("the session lives") != "OK" {}
    assert_eq!(client.ask("g"), registers_at_start());
    assert!(client.ask("vCont;s:p1.1;c").starts_with("T05"));
}

/// Packets that clients really send.
const HONEST_PACKETS: &[&str] = &[
    "qSupported:multiprocess+;swbreak+;hwbreak+;error-message+",
    "vMustReplyEmpty",
    "Hgp0.0",
    "Hcp1.-1",
    "qXfer:features:read:target.xml:0,ffb",
    "qXfer:features:read:target.xml:3,61",
    "qTStatus",
    "?",
    "qfThreadInfo",
    "qsThreadInfo",
    "qAttached:1",
    "qC",
    "g",
    "p1a",
    "pf",
    "m8000,40",
    "mfffffff0,20",
    "Z0,8008,4",
    "z0,8008,4",
    "Z1,8014,4",
    "Z0,8008,4;X7,26000022031327",
    "x8000,40",
    "qSearch:memory:8000;20;abc",
    "qRcmd,6576656e7473",
    "z1,8014,4",
    "Z2,9000,4",
    "vCont?",
    "vCont;c:p1.-1",
    "vCont;s:p1.1;c:p1.-1",
    "vCont;r8008,8018:p1.1;c:p1.-1",
    "s",
    "c",
    "bs",
    "bc",
    "P0=00000000",
    "M8000,4:00000000",
    "X8000,4:abcd",
    "qRcmd,7768656e",
    "qRcmd,676f746f20353025",
    "qRcmd,68656c70",
    "Tp1.1",
    "QStartNoAckMode",
];

/// A change at a place that is taken modulo the packet's length.
#[derive(Clone, Debug)]
enum Mutation {
    Replace(usize, u8),
    Insert(usize, u8),
    Remove(usize),
    Truncate(usize),
    Repeat(usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    // Mostly bytes that mean something in the protocol.
    let byte =
        prop_oneof![proptest::sample::select(b"0123456789abcdef,;:.-+p#$}*\x03 grsct".to_vec()), any::<u8>()];
    prop_oneof![
        (any::<usize>(), byte.clone()).prop_map(|(place, byte)| Mutation::Replace(place, byte)),
        (any::<usize>(), byte).prop_map(|(place, byte)| Mutation::Insert(place, byte)),
        any::<usize>().prop_map(Mutation::Remove),
        any::<usize>().prop_map(Mutation::Truncate),
        any::<usize>().prop_map(Mutation::Repeat),
    ]
}

fn mutate(packet: &str, mutations: &[Mutation]) -> Vec<u8> {
    let mut bytes = packet.as_bytes().to_vec();
    for mutation in mutations {
        let length = bytes.len();
        match *mutation {
            Mutation::Insert(place, byte) => bytes.insert(place % (length + 1), byte),
            _ if length == 0 => {}
            Mutation::Replace(place, byte) => bytes[place % length] = byte,
            Mutation::Remove(place) => drop(bytes.remove(place % length)),
            Mutation::Truncate(place) => bytes.truncate(place % length),
            Mutation::Repeat(place) => bytes.extend_from_within(place % length..),
        }
    }
    bytes
}

proptest! {
    // A failure may take the test's whole patience to notice, so it is not made smaller for long.
    #![proptest_config(ProptestConfig {
        cases: 200,
        max_shrink_iters: 20,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_bytes_never_end_the_server(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        quietly in any::<bool>(),
    ) {
        let server = *ABUSED_SERVER;
        let mut client =
            if quietly { RawClient::connect_quietly(server) } else { RawClient::connect(server) };
        client.send(&bytes);
        drop(client);
        assert_serves_well(server);
    }

    #[test]
    fn mutated_packets_never_end_a_session(
        packets in proptest::collection::vec(
            (proptest::sample::select(HONEST_PACKETS), proptest::collection::vec(mutation(), 0..4)),
            1..8,
        ),
    ) {
        let server = *ABUSED_SERVER;
        let mut client = RawClient::connect_quietly(server);
        let mut left = false;
        for (packet, mutations) in packets {
            let body = mutate(packet, &mutations);
            // These are the ways in which a client says that it leaves.
            left = matches!(&body[..], b"k" | b"D") || body.starts_with(b"D;") || body.starts_with(b"vKill;");
            if left || !client.send_packet(&body) {
                break;
            }
        }
        // Closes a packet that a `#` or `$` in the last one has left open.
        client.send(b"#00");
        client.send_packet(b"qC");
        client.send_packet(b"qC");
        while !left && client.receive_packet().expect("the session lives") != "QC1" {}
        drop(client);
        assert_serves_well(server);
    }
}
