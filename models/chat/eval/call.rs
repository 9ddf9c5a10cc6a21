//! Operators, attributes and calls.

use std::rc::Rc;

use minijinja::machinery::ast::{self, BinOpKind, CallArg, CompareOpKind, Expr};

use super::{Evaluator, Macro, SCOPE, described, undefined};
use crate::chat::{
    args::Args,
    filters, functions, ops,
    template::{Halt, Rendered},
    text::Text,
    value::{Function, Loop, Value},
};

impl<'t> Evaluator<'t> {
    pub(super) fn binary(&mut self, op: &'t ast::BinOp<'t>) -> Rendered<Value> {
        let left = self.expr(&op.left)?;
        match op.op {
            BinOpKind::ScAnd if !left.truth() => return Ok(left),
            BinOpKind::ScOr if left.truth() => return Ok(left),
            _ => {}
        }
        let right = self.expr(&op.right)?;
        let budget = &self.budget;
        match op.op {
            BinOpKind::ScAnd | BinOpKind::ScOr => Ok(right),
            BinOpKind::Eq => left.equals(&right, budget).map(Value::Bool),
            BinOpKind::Ne => left.equals(&right, budget).map(|same| Value::Bool(!same)),
            BinOpKind::Lt => ops::order(&left, &right, budget).map(|o| Value::Bool(o.is_some_and(|o| o.is_lt()))),
            BinOpKind::Lte => ops::order(&left, &right, budget).map(|o| Value::Bool(o.is_some_and(|o| o.is_le()))),
            BinOpKind::Gt => ops::order(&left, &right, budget).map(|o| Value::Bool(o.is_some_and(|o| o.is_gt()))),
            BinOpKind::Gte => ops::order(&left, &right, budget).map(|o| Value::Bool(o.is_some_and(|o| o.is_ge()))),
            BinOpKind::In => ops::contains(&right, &left, budget).map(Value::Bool),
            BinOpKind::Add => ops::add(&left, &right, budget),
            BinOpKind::Mul => ops::multiply(&left, &right, budget),
            BinOpKind::Concat => {
                let mut text = Text::new(budget);
                text.str(&left)?;
                text.str(&right)?;
                text.value()
            }
            BinOpKind::Sub | BinOpKind::Div | BinOpKind::FloorDiv | BinOpKind::Rem | BinOpKind::Pow => {
                ops::arithmetic(op.op, &left, &right)
            }
        }
    }

    /// A chain such as `a < b < c`.
    pub(super) fn compare(&mut self, compare: &'t ast::Compare<'t>) -> Rendered<Value> {
        let mut left = self.expr(&compare.expr)?;
        for op in &compare.ops {
            let right = self.expr(&op.expr)?;
            let budget = &self.budget;
            let order = || ops::order(&left, &right, budget);
            let holds = match op.op {
                CompareOpKind::Eq => left.equals(&right, budget)?,
                CompareOpKind::Ne => !left.equals(&right, budget)?,
                CompareOpKind::Lt => order()?.is_some_and(|o| o.is_lt()),
                CompareOpKind::Lte => order()?.is_some_and(|o| o.is_le()),
                CompareOpKind::Gt => order()?.is_some_and(|o| o.is_gt()),
                CompareOpKind::Gte => order()?.is_some_and(|o| o.is_ge()),
                CompareOpKind::In => ops::contains(&right, &left, budget)?,
                CompareOpKind::NotIn => !ops::contains(&right, &left, budget)?,
            };
            if !holds {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    /// `value.name`, where `of` is the expression that gave the value.
    pub(super) fn attribute(&self, value: &Value, name: &str, of: &Expr) -> Rendered<Value> {
        match value {
            Value::Undefined => Err(undefined(of)),
            Value::Dict(dict) => Ok(dict.named(name, &self.budget)?.cloned().unwrap_or(Value::Undefined)),
            Value::Namespace(at) => Ok(self.namespaces[*at].get(name).cloned().unwrap_or(Value::Undefined)),
            Value::Loop(l) => Ok(of_loop(l, name)),
            _ => Ok(Value::Undefined),
        }
    }

    pub(super) fn arguments(&mut self, args: &'t [CallArg<'t>], caller: Option<Value>) -> Rendered<Args> {
        let mut given = Args::default();
        for arg in args {
            self.budget.room::<Value>(2)?;
            match arg {
                CallArg::Pos(value) => given.by_place.push(self.expr(value)?),
                CallArg::Kwarg(name, value) => {
                    self.budget.make(name.len())?;
                    given.by_name.push((Rc::from(*name), self.expr(value)?));
                }
                CallArg::PosSplat(value) => {
                    let values = self.expr(value)?.iterate(&self.budget)?;
                    self.budget.room::<Value>(values.items().len())?;
                    given.by_place.extend_from_slice(values.items());
                }
                CallArg::KwargSplat(value) => {
                    let Value::Dict(dict) = self.expr(value)? else { return Err(Halt::fault("** takes a map")) };
                    self.budget.room::<(Rc<str>, Value)>(dict.entries().len())?;
                    for (key, value) in dict.entries() {
                        let Value::Str(name) = key else { return Err(Halt::fault("** takes a map from names")) };
                        given.by_name.push((name.clone(), value.clone()));
                    }
                }
            }
        }
        given.by_name.extend(caller.map(|caller| (Rc::from("caller"), caller)));
        Ok(given)
    }

    /// A block's filters, one around the other.
    pub(super) fn filter_chain(&mut self, chain: &'t Expr<'t>, text: Value) -> Rendered<Value> {
        self.deeper(|e| {
            let Expr::Filter(filter) = chain else { return Err(Halt::fault("a block's filter is not a filter")) };
            let value = match &filter.expr {
                Some(before) => e.filter_chain(before, text)?,
                None => text,
            };
            let args = e.arguments(&filter.args, None)?;
            filters::apply(filter.name, value, args, &e.budget)
        })
    }

    pub(super) fn call(&mut self, call: &'t ast::Call<'t>, caller: Option<Value>) -> Rendered<Value> {
        let Expr::GetAttr(get) = &call.expr else {
            let function = self.expr(&call.expr)?;
            let args = self.arguments(&call.args, caller)?;
            return self.call_value(&function, args, &call.expr);
        };
        let of = self.expr(&get.expr)?;
        let args = self.arguments(&call.args, caller)?;
        match &of {
            Value::Undefined => Err(undefined(&get.expr)),
            Value::Namespace(_) => {
                let held = self.attribute(&of, get.name, &get.expr)?;
                self.call_value(&held, args, &call.expr)
            }
            Value::Loop(l) => functions::of_loop(l, get.name, args, &self.budget),
            Value::Dict(dict) => match dict.named(get.name, &self.budget)? {
                Some(held @ (Value::Macro(_) | Value::Function(_))) => self.call_value(&held.clone(), args, &call.expr),
                _ => functions::method(&of, get.name, args, &self.budget),
            },
            other => functions::method(other, get.name, args, &self.budget),
        }
    }

    fn call_value(&mut self, function: &Value, args: Args, of: &Expr) -> Rendered<Value> {
        match function {
            Value::Macro(at) => self.call_macro(*at, args),
            Value::Function(Function::Namespace) => self.new_namespace(args),
            Value::Function(function) => functions::call(*function, args, self.date, &self.budget),
            Value::Undefined => Err(Halt::fault(format!("there is no function {} that a template may call", described(of)))),
            other => Err(Halt::fault(format!("{} is a {} and cannot be called", described(of), other.kind()))),
        }
    }

    fn new_namespace(&mut self, args: Args) -> Rendered<Value> {
        self.budget.make(SCOPE)?;
        let Value::Dict(dict) = functions::call(Function::Dict, args, self.date, &self.budget)? else {
            return Err(Halt::fault("namespace takes names and their values"));
        };
        self.budget.make(SCOPE * dict.entries().len())?;
        let named = dict.entries().iter().filter_map(|(key, value)| match key {
            Value::Str(name) => Some((name.clone(), value.clone())),
            _ => None,
        });
        self.namespaces.push(named.collect());
        Ok(Value::Namespace(self.namespaces.len() - 1))
    }

    pub(super) fn declare(&mut self, declared: &'t ast::Macro<'t>) -> Rendered<Value> {
        self.budget.make(SCOPE)?;
        self.macros.push(Macro { declared, frame: self.frame.clone() });
        Ok(Value::Macro(self.macros.len() - 1))
    }

    fn call_macro(&mut self, at: usize, mut args: Args) -> Rendered<Value> {
        let Macro { declared, frame } = &self.macros[at];
        let (declared, frame) = (*declared, frame.clone());
        let places = args.by_place.len();
        if places > declared.args.len() {
            return Err(Halt::fault(format!(
                "macro {:?} takes {} arguments, not {places}",
                declared.name,
                declared.args.len()
            )));
        }
        let plain = declared.args.len() - declared.defaults.len();
        let mut by_place = std::mem::take(&mut args.by_place).into_iter();
        self.budget.make(SCOPE)?;
        self.budget.look(8usize.saturating_mul(declared.args.len()).saturating_mul(args.by_name.len()))?;
        self.deeper(|e| {
            e.scoped(frame, |e| {
                for (at, target) in declared.args.iter().enumerate() {
                    let Expr::Var(var) = target else { return Err(Halt::fault("a macro's argument is no name")) };
                    let value = match (by_place.next().or(args.take(var.id)), at.checked_sub(plain)) {
                        (Some(value), _) => value,
                        (None, Some(default)) => e.expr(&declared.defaults[default])?,
                        (None, None) => Value::Undefined,
                    };
                    e.set(var.id, value)?;
                }
                if let Some(caller) = args.take("caller") {
                    e.set("caller", caller)?;
                }
                args.finish(declared.name)?;
                e.captured(|e| e.block(&declared.body))
            })
        })
    }
}

/// What a loop tells of itself.
fn of_loop(l: &Loop, name: &str) -> Value {
    let (at, items) = (l.at.get(), l.items.items());
    let int = |i: usize| Value::Int(i as i64);
    let item = |at: Option<usize>| at.and_then(|at| items.get(at)).cloned().unwrap_or(Value::Undefined);
    match name {
        "index" => int(at + 1),
        "index0" => int(at),
        "revindex" => int(items.len() - at),
        "revindex0" => int(items.len() - at - 1),
        "first" => Value::Bool(at == 0),
        "last" => Value::Bool(at + 1 == items.len()),
        "length" => int(items.len()),
        "previtem" => item(at.checked_sub(1)),
        "nextitem" => item(Some(at + 1)),
        "depth" => int(1), // of recursive loops, which chat templates do without
        "depth0" => int(0),
        _ => Value::Undefined,
    }
}
