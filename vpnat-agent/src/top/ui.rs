//! What the operator has asked for: by keys, one at a time.

use vpnat_common::addr::Ip4;

use super::sample::FlowId;

/// A key, as far as it means something here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    /// A letter, digit or sign.
    Char(char),
    /// Enter.
    Enter,
    /// Escape.
    Escape,
    /// Backspace.
    Backspace,
    /// Tab.
    Tab,
    /// Shift and Tab.
    BackTab,
    /// Up by so many rows.
    Up(usize),
    /// Down by so many rows.
    Down(usize),
    /// Control and C.
    Interrupt,
}

/// A list on the screen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Panel {
    /// Vendors.
    Vendors,
    /// Pods.
    Pods,
    /// Flows.
    Flows,
}

impl Panel {
    const ALL: [Self; 3] = [Self::Vendors, Self::Pods, Self::Flows];
}

/// What lists are sorted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sort {
    /// Bits per second, both ways.
    Bits,
    /// Packets per second, both ways.
    Packets,
    /// Number of flows; of flows, their age.
    Flows,
    /// Name or address.
    Name,
}

impl Sort {
    /// What is said of it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bits => "bit/s",
            Self::Packets => "packets/s",
            Self::Flows => "flows, age",
            Self::Name => "name",
        }
    }

    const fn next(self) -> Self {
        match self {
            Self::Bits => Self::Packets,
            Self::Packets => Self::Flows,
            Self::Flows => Self::Name,
            Self::Name => Self::Bits,
        }
    }
}

/// What the lists are narrowed down to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scope {
    /// One vendor, by its slot.
    pub vendor: Option<u8>,
    /// One pod.
    pub pod: Option<Ip4>,
    /// One flow.
    pub flow: Option<FlowId>,
}

/// What is under the cursor of each list, as it was drawn last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Under {
    /// A vendor.
    pub vendor: Option<u8>,
    /// A pod.
    pub pod: Option<Ip4>,
    /// A flow.
    pub flow: Option<FlowId>,
}

/// What a key leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// On with it.
    GoOn,
    /// The end.
    Quit,
}

/// What the operator has asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ui {
    /// The list that keys are for.
    pub panel: Panel,
    /// The row in each list, from 0; what is beyond the end counts as the last.
    pub cursor: [usize; 3],
    /// What lists are sorted by.
    pub sort: Sort,
    /// Whether the other way round.
    pub reversed: bool,
    /// What is shown.
    pub scope: Scope,
    /// Only what holds this text.
    pub filter: String,
    /// Whether the filter is being typed.
    pub typing: bool,
    /// Whether the screen stands still.
    pub paused: bool,
    /// Whether the keys are explained.
    pub help: bool,
}

impl Default for Ui {
    fn default() -> Self {
        Self {
            panel: Panel::Vendors,
            cursor: [0; 3],
            sort: Sort::Bits,
            reversed: false,
            scope: Scope::default(),
            filter: String::new(),
            typing: false,
            paused: false,
            help: false,
        }
    }
}

impl Ui {
    /// The row of a list.
    pub const fn row(&self, panel: Panel) -> usize {
        self.cursor[panel as usize]
    }

    /// Does what a key says.
    pub fn press(&mut self, key: Key, under: &Under) -> Next {
        if key == Key::Interrupt {
            return Next::Quit;
        }
        if self.typing {
            self.type_key(key);
            return Next::GoOn;
        }
        if self.help {
            self.help = false;
            return Next::GoOn;
        }
        match key {
            Key::Char('q') => return Next::Quit,
            Key::Char('?' | 'h') => self.help = true,
            Key::Char('/') => self.typing = true,
            Key::Char('p' | ' ') => self.paused = !self.paused,
            Key::Char('s') => self.sort = self.sort.next(),
            Key::Char('r') => self.reversed = !self.reversed,
            Key::Char('j') => self.step(1, true),
            Key::Char('k') => self.step(1, false),
            Key::Down(rows) => self.step(rows, true),
            Key::Up(rows) => self.step(rows, false),
            Key::Tab => self.turn(1),
            Key::BackTab => self.turn(2),
            Key::Enter => self.enter(under),
            Key::Backspace => self.back(),
            Key::Escape if self.filter.is_empty() => self.back(),
            Key::Escape => self.filter.clear(),
            Key::Char(_) | Key::Interrupt => {}
        }
        Next::GoOn
    }

    fn type_key(&mut self, key: Key) {
        match key {
            Key::Char(letter) if self.filter.len() < 64 => self.filter.push(letter),
            Key::Backspace => {
                self.filter.pop();
            }
            Key::Enter => self.typing = false,
            Key::Escape => {
                self.typing = false;
                self.filter.clear();
            }
            _ => return,
        }
        self.cursor = [0; 3];
    }

    fn step(&mut self, rows: usize, down: bool) {
        let row = &mut self.cursor[self.panel as usize];
        *row = if down { row.saturating_add(rows) } else { row.saturating_sub(rows) };
    }

    fn turn(&mut self, by: usize) {
        self.panel = Panel::ALL[(self.panel as usize + by) % Panel::ALL.len()];
    }

    /// Down to what is under the cursor.
    fn enter(&mut self, under: &Under) {
        match self.panel {
            Panel::Vendors if under.vendor.is_some() => {
                self.scope = Scope { vendor: under.vendor, ..Scope::default() };
                self.panel = Panel::Pods;
            }
            Panel::Pods if under.pod.is_some() => {
                self.scope = Scope { pod: under.pod, flow: None, ..self.scope };
                self.panel = Panel::Flows;
            }
            Panel::Flows if under.flow.is_some() => self.scope.flow = under.flow,
            _ => return,
        }
        self.cursor[self.panel as usize] = 0;
    }

    /// Up again, one step.
    fn back(&mut self) {
        let scope = &mut self.scope;
        if scope.flow.take().is_some() {
            self.panel = Panel::Flows;
        } else if scope.pod.take().is_some() {
            self.panel = Panel::Pods;
        } else if scope.vendor.take().is_some() {
            self.panel = Panel::Vendors;
        }
    }

    /// Brings the cursor of a list back to its rows after it has been drawn with so many.
    pub fn clamp(&mut self, panel: Panel, rows: usize) {
        let row = &mut self.cursor[panel as usize];
        *row = (*row).min(rows.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(ui: &mut Ui, keys: &[Key], under: &Under) {
        for key in keys {
            assert_eq!(ui.press(*key, under), Next::GoOn);
        }
    }

    #[test]
    fn down_to_a_flow_and_up_again() {
        let end = crate::datapath::flows::Endpoint {
            address: Ip4::new(10, 0, 2, 7),
            port: vpnat_common::addr::Port::new(1),
        };
        let flow = FlowId { protocol: 6, inside: end, remote: end };
        let under = Under { vendor: Some(1), pod: Some(end.address), flow: Some(flow) };
        let mut ui = Ui::default();
        press(&mut ui, &[Key::Enter, Key::Enter, Key::Enter], &under);
        assert_eq!(ui.scope, Scope { vendor: Some(1), pod: Some(end.address), flow: Some(flow) });
        press(&mut ui, &[Key::Escape, Key::Backspace], &under);
        assert_eq!((ui.scope, ui.panel), (Scope { vendor: Some(1), ..Scope::default() }, Panel::Pods));
        press(&mut ui, &[Key::Escape, Key::Escape], &under);
        assert_eq!((ui.scope, ui.panel), (Scope::default(), Panel::Vendors));
        // Nothing is under the cursor of an empty list.
        press(&mut ui, &[Key::Enter], &Under::default());
        assert_eq!(ui.scope, Scope::default());
    }

    #[test]
    fn letters_are_text_while_a_filter_is_typed() {
        let (mut ui, under) = (Ui::default(), Under::default());
        press(&mut ui, &[Key::Char('/'), Key::Char('q'), Key::Char('x'), Key::Backspace, Key::Enter], &under);
        assert_eq!((ui.filter.as_str(), ui.typing), ("q", false));
        press(&mut ui, &[Key::Escape], &under);
        assert!(ui.filter.is_empty());
        press(&mut ui, &[Key::Char('/')], &under);
        assert_eq!(ui.press(Key::Interrupt, &under), Next::Quit, "always");
    }

    #[test]
    fn the_cursor_stays_in_its_list() {
        let (mut ui, under) = (Ui::default(), Under::default());
        press(&mut ui, &[Key::Down(10), Key::Up(1)], &under);
        ui.clamp(Panel::Vendors, 3);
        assert_eq!(ui.row(Panel::Vendors), 2);
        ui.clamp(Panel::Vendors, 0);
        assert_eq!(ui.row(Panel::Vendors), 0);
        press(&mut ui, &[Key::Tab, Key::BackTab, Key::BackTab], &under);
        assert_eq!(ui.panel, Panel::Flows);
        press(&mut ui, &[Key::Char('s'), Key::Char('r')], &under);
        assert_eq!((ui.sort, ui.reversed), (Sort::Packets, true));
        assert_eq!(ui.press(Key::Char('q'), &under), Next::Quit);
    }
}
