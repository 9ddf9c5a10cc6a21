//! Statements and expressions of a template.

use std::{cell::Cell, cell::RefCell, collections::HashMap, mem, rc::Rc};

use minijinja::{
    machinery::ast::{self, Expr, Stmt, UnaryOpKind},
    value::ValueKind,
};

mod call;

use super::{
    Date, Message,
    budget::Budget,
    filters, ops,
    template::{Halt, Input, Rendered},
    text::Text,
    value::{Function, Items, Loop, Seq, Value},
};

/// Deepest nesting of statements, expressions and calls of macros while a template runs.
const MAX_NESTING: usize = 1000;
/// Bytes that a scope, a macro or a namespace takes before anything is in it.
const SCOPE: usize = 256;

/// Names and what they stand for, and the scope around.
struct Frame<'t> {
    names: RefCell<HashMap<&'t str, Value>>,
    parent: Option<Rc<Frame<'t>>>,
}

struct Macro<'t> {
    declared: &'t ast::Macro<'t>,
    frame: Rc<Frame<'t>>,
}

/// How a statement ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

/// A template that runs.
pub(super) struct Evaluator<'t> {
    budget: Budget,
    frame: Rc<Frame<'t>>,
    outputs: Vec<String>, // the prompt, then each capture that is open
    limit: usize,         // bytes of the prompt
    date: Date,
    namespaces: Vec<HashMap<Rc<str>, Value>>,
    macros: Vec<Macro<'t>>,
    nesting: usize,
    line: u16,
}

impl<'t> Evaluator<'t> {
    /// For a prompt of at most `limit` bytes.
    pub(super) fn new(budget: Budget, limit: usize, date: Date) -> Self {
        let frame = Rc::new(Frame { names: RefCell::default(), parent: None });
        let (namespaces, macros) = (Vec::new(), Vec::new());
        Self { budget, frame, outputs: vec![String::new()], limit, date, namespaces, macros, nesting: 0, line: 1 }
    }

    /// The line of the statement that ran last.
    pub(super) fn line(&self) -> u16 {
        self.line
    }

    /// The prompt.
    pub(super) fn run(&mut self, body: &'t [Stmt<'t>], input: &Input) -> Rendered<String> {
        let text = |s: &str| Value::Str(s.into());
        let spend = Budget::unlimited();
        let mut messages = Items::new(&spend);
        for m in input.messages {
            messages.push(message(m, input.messages, &spend)?)?;
        }
        let mut tools = Items::new(&spend);
        for tool in input.tools {
            tools.push(Value::json(tool, &spend)?)?;
        }
        for (name, value) in [
            ("messages", messages.list()?),
            ("tools", if input.tools.is_empty() { Value::None } else { tools.list()? }),
            ("documents", Value::None),
            ("add_generation_prompt", Value::Bool(true)),
            ("bos_token", text(input.bos)),
            ("eos_token", text(input.eos)),
        ] {
            self.frame.names.borrow_mut().insert(name, value);
        }
        self.block(body)?;
        Ok(self.outputs.swap_remove(0))
    }

    // Scopes

    fn scoped<T>(&mut self, parent: Rc<Frame<'t>>, work: impl FnOnce(&mut Self) -> Rendered<T>) -> Rendered<T> {
        let frame = Rc::new(Frame { names: RefCell::default(), parent: Some(parent) });
        let outer = mem::replace(&mut self.frame, frame);
        let done = work(self);
        self.frame = outer;
        done
    }

    fn inner<T>(&mut self, work: impl FnOnce(&mut Self) -> Rendered<T>) -> Rendered<T> {
        self.scoped(self.frame.clone(), work)
    }

    /// What `work` writes, as a value and not in the prompt.
    fn captured(&mut self, work: impl FnOnce(&mut Self) -> Rendered<Flow>) -> Rendered<Value> {
        self.outputs.push(String::new());
        work(self)?;
        let text = self.outputs.pop().unwrap_or_default();
        Value::text(&text, &self.budget)
    }

    fn deeper<T>(&mut self, work: impl FnOnce(&mut Self) -> Rendered<T>) -> Rendered<T> {
        if self.nesting == MAX_NESTING {
            return Err(Halt::fault(format!("nests more than {MAX_NESTING} deep")));
        }
        self.nesting += 1;
        let done = work(self);
        self.nesting -= 1;
        done
    }

    fn lookup(&self, name: &str) -> Rendered<Value> {
        let mut frame = Some(&self.frame);
        while let Some(at) = frame {
            if let Some(value) = at.names.borrow().get(name) {
                return Ok(value.clone());
            }
            frame = at.parent.as_ref();
            self.budget.step()?;
        }
        Ok(Function::named(name).map_or(Value::Undefined, Value::Function))
    }

    fn set(&self, name: &'t str, value: Value) -> Rendered<()> {
        self.budget.room::<(&str, Value)>(2)?; // a macro keeps the scope that it is declared in
        self.frame.names.borrow_mut().insert(name, value);
        Ok(())
    }

    fn assign(&mut self, target: &'t Expr<'t>, value: Value) -> Rendered<()> {
        match target {
            Expr::Var(var) => self.set(var.id, value),
            Expr::List(list) => {
                let values = value.iterate(&self.budget)?;
                let (wanted, given) = (list.items.len(), values.items().len());
                if wanted != given {
                    return Err(Halt::fault(format!("unpacks {given} values into {wanted} names")));
                }
                list.items.iter().zip(values.items()).try_for_each(|(target, value)| self.assign(target, value.clone()))
            }
            Expr::GetAttr(attribute) => match self.expr(&attribute.expr)? {
                Value::Namespace(at) => {
                    self.budget.make(SCOPE + attribute.name.len())?;
                    self.namespaces[at].insert(attribute.name.into(), value);
                    Ok(())
                }
                other => Err(Halt::fault(format!("sets {:?} on a {}; only namespaces change", attribute.name, other.kind()))),
            },
            other => Err(Halt::fault(format!("a {} cannot be set", other.description()))),
        }
    }

    // Output

    fn emit(&mut self, text: &str) -> Rendered<()> {
        self.budget.make(2 * text.len())?; // strings grow by doubling
        let prompt = self.outputs.len() == 1;
        let Some(out) = self.outputs.last_mut() else { return Ok(()) };
        if prompt && text.len() > self.limit.saturating_sub(out.len()) {
            return Err(Halt::fault(format!("writes more than the {} bytes that are allowed", self.limit)));
        }
        out.push_str(text);
        Ok(())
    }

    // Statements

    fn block(&mut self, body: &'t [Stmt<'t>]) -> Rendered<Flow> {
        for statement in body {
            let flow = self.deeper(|e| e.statement(statement))?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&mut self, statement: &'t Stmt<'t>) -> Rendered<Flow> {
        self.budget.step()?;
        match statement {
            Stmt::EmitRaw(raw) => self.emit(raw.raw)?,
            Stmt::EmitExpr(emit) => {
                self.line = emit.span().start_line;
                let value = self.expr(&emit.expr)?;
                self.emit(&Text::of(&value, &self.budget)?)?;
            }
            Stmt::IfCond(cond) => {
                self.line = cond.span().start_line;
                let body = if self.expr(&cond.expr)?.truth() { &cond.true_body } else { &cond.false_body };
                return self.block(body);
            }
            Stmt::ForLoop(l) => {
                self.line = l.span().start_line;
                self.for_loop(l)?;
            }
            Stmt::Set(set) => {
                self.line = set.span().start_line;
                let value = self.expr(&set.expr)?;
                self.assign(&set.target, value)?;
            }
            Stmt::SetBlock(set) => {
                let text = self.captured(|e| e.inner(|e| e.block(&set.body)))?;
                let value = set.filter.as_ref().map_or(Ok(text.clone()), |filter| self.filter_chain(filter, text))?;
                self.assign(&set.target, value)?;
            }
            Stmt::FilterBlock(block) => {
                let text = self.captured(|e| e.inner(|e| e.block(&block.body)))?;
                let value = self.filter_chain(&block.filter, text)?;
                self.emit(&Text::of(&value, &self.budget)?)?;
            }
            Stmt::WithBlock(with) => {
                return self.inner(|e| {
                    for (target, value) in &with.assignments {
                        let value = e.expr(value)?;
                        e.assign(target, value)?;
                    }
                    e.block(&with.body)
                });
            }
            Stmt::Macro(declared) => {
                let value = self.declare(declared)?;
                self.set(declared.name, value)?;
            }
            Stmt::CallBlock(block) => {
                self.line = block.span().start_line;
                let caller = self.declare(&block.macro_decl)?;
                let value = self.call(&block.call, Some(caller))?;
                self.emit(&Text::of(&value, &self.budget)?)?;
            }
            Stmt::Do(call) => {
                self.line = call.span().start_line;
                self.call(&call.call, None)?;
            }
            Stmt::Break(_) => return Ok(Flow::Break),
            Stmt::Continue(_) => return Ok(Flow::Continue),
            Stmt::Template(template) => return self.block(&template.children),
            Stmt::AutoEscape(_) => return Err(Halt::fault("autoescape is not part of chat templates")),
        }
        Ok(Flow::Next)
    }

    fn for_loop(&mut self, l: &'t ast::ForLoop<'t>) -> Rendered<()> {
        if l.recursive {
            return Err(Halt::fault("recursive loops are not part of chat templates; a macro can call itself"));
        }
        let mut items = self.expr(&l.iter)?.iterate_any(&self.budget)?;
        if let Some(test) = &l.filter_expr {
            items = self.chosen(&l.target, test, &items)?;
        }
        if items.items().is_empty() {
            return self.inner(|e| e.block(&l.else_body)).map(drop);
        }
        let state = Rc::new(Loop { items: items.clone(), at: Cell::new(0), seen: RefCell::default() });
        for (at, item) in items.items().iter().enumerate() {
            self.budget.step()?;
            state.at.set(at);
            let flow = self.inner(|e| {
                e.set("loop", Value::Loop(state.clone()))?;
                e.assign(&l.target, item.clone())?;
                e.block(&l.body)
            })?;
            if flow == Flow::Break {
                break;
            }
        }
        Ok(())
    }

    /// The items that a loop's `if` lets pass.
    fn chosen(&mut self, target: &'t Expr<'t>, test: &'t Expr<'t>, items: &Seq) -> Rendered<Rc<Seq>> {
        let mut passed = Vec::new();
        for item in items.items() {
            self.budget.step()?;
            let passes = self.inner(|e| {
                e.assign(target, item.clone())?;
                e.expr(test)
            })?;
            if passes.truth() {
                self.budget.room::<Value>(2)?;
                passed.push(item.clone());
            }
        }
        Seq::new(passed, &self.budget)
    }

    // Expressions

    fn expr(&mut self, expr: &'t Expr<'t>) -> Rendered<Value> {
        self.budget.step()?;
        self.deeper(|e| e.expression(expr))
    }

    fn expression(&mut self, expr: &'t Expr<'t>) -> Rendered<Value> {
        match expr {
            Expr::Const(c) => constant(&c.value, &self.budget),
            Expr::Var(var) => self.lookup(var.id),
            Expr::GetAttr(get) => {
                let value = self.expr(&get.expr)?;
                self.attribute(&value, get.name, &get.expr)
            }
            Expr::GetItem(get) => {
                let value = self.expr(&get.expr)?;
                let key = self.expr(&get.subscript_expr)?;
                match (&value, &key) {
                    (Value::Undefined | Value::Namespace(_) | Value::Loop(_), Value::Str(name)) => {
                        self.attribute(&value, name, &get.expr)
                    }
                    (Value::Undefined, _) => Err(undefined(&get.expr)),
                    _ => ops::item(&value, &key, &self.budget),
                }
            }
            Expr::Slice(slice) => {
                let value = self.expr(&slice.expr)?;
                if let Value::Undefined = value {
                    return Err(undefined(&slice.expr));
                }
                let mut bound = |b: &'t Option<Expr<'t>>| b.as_ref().map_or(Ok(Value::None), |b| self.expr(b));
                let bounds = [bound(&slice.start)?, bound(&slice.stop)?, bound(&slice.step)?];
                ops::slice(&value, &bounds, &self.budget)
            }
            Expr::UnaryOp(op) => {
                let value = self.expr(&op.expr)?;
                match op.op {
                    UnaryOpKind::Not => Ok(Value::Bool(!value.truth())),
                    UnaryOpKind::Neg => ops::negative(&value),
                }
            }
            Expr::BinOp(op) => self.binary(op),
            Expr::Compare(compare) => self.compare(compare),
            Expr::IfExpr(cond) => match (self.expr(&cond.test_expr)?.truth(), &cond.false_expr) {
                (true, _) => self.expr(&cond.true_expr),
                (false, Some(other)) => self.expr(other),
                (false, None) => Ok(Value::Undefined),
            },
            Expr::Filter(filter) => {
                let Some(of) = &filter.expr else { return Err(Halt::fault("a filter without a value")) };
                let value = self.expr(of)?;
                let args = self.arguments(&filter.args, None)?;
                filters::apply(filter.name, value, args, &self.budget)
            }
            Expr::Test(test) => {
                let value = self.expr(&test.expr)?;
                let args = self.arguments(&test.args, None)?;
                filters::test(test.name, &value, args, &self.budget).map(Value::Bool)
            }
            Expr::Call(call) => self.call(call, None),
            Expr::List(list) => self.items(&list.items).map(Value::List),
            Expr::Tuple(tuple) => self.items(&tuple.items).map(Value::Tuple),
            Expr::Map(map) => {
                let mut pairs = Vec::new();
                for (key, value) in map.keys.iter().zip(&map.values) {
                    self.budget.room::<(Value, Value)>(2)?;
                    pairs.push(Ok((self.expr(key)?, self.expr(value)?)));
                }
                Value::dict(pairs, &self.budget)
            }
        }
    }

    fn items(&mut self, items: &'t [Expr<'t>]) -> Rendered<Rc<Seq>> {
        self.budget.room::<Value>(items.len())?;
        let items = items.iter().map(|item| self.expr(item)).collect::<Rendered<Vec<_>>>()?;
        Seq::new(items, &self.budget)
    }
}

/// A message, with what it calls and what it answers among `all`.
fn message(m: &Message, all: &[Message], spend: &Budget) -> Rendered<Value> {
    let text = |s: &str| Value::Str(s.into());
    let mut entries = vec![Ok((text("role"), text(m.role.name()))), Ok((text("content"), text(&m.content)))];
    if !m.calls.is_empty() {
        let mut calls = Items::new(spend);
        for call in &m.calls {
            calls.push(Value::json(&call.described(), spend)?)?;
        }
        entries.push(Ok((text("tool_calls"), calls.list()?)));
    }
    if let Some(id) = &m.answers {
        let of = all.iter().flat_map(|m| &m.calls).find(|call| call.id == *id);
        entries.push(Ok((text("tool_call_id"), text(id))));
        entries.push(Ok((text("name"), text(of.map_or("", |call| &call.name)))));
    }
    Value::dict(entries, spend)
}

/// A constant of the source.
fn constant(value: &minijinja::Value, budget: &Budget) -> Rendered<Value> {
    match (value.kind(), value.as_str()) {
        (ValueKind::None, _) => Ok(Value::None),
        (ValueKind::Bool, _) => Ok(Value::Bool(value.is_true())),
        (_, Some(text)) => Value::text(text, budget),
        (ValueKind::Number, _) => match value.as_i64() {
            Some(int) if value.is_integer() => Ok(Value::Int(int)),
            _ if value.is_integer() => Err(ops::beyond()),
            _ => f64::try_from(value.clone()).map(Value::Float).map_err(|e| Halt::fault(e.to_string())),
        },
        (kind, _) => Err(Halt::fault(format!("a constant of the kind {kind}"))),
    }
}

/// Says which expression is undefined.
fn undefined(expr: &Expr) -> Halt {
    Halt::fault(format!("{} is undefined", described(expr)))
}

fn described(expr: &Expr) -> String {
    match expr {
        Expr::Var(var) => format!("{:?}", var.id),
        Expr::GetAttr(get) => format!("{:?}", get.name),
        other => format!("the {}", other.description()),
    }
}
