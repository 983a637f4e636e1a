/**
 * What several views share: the time that goes on, arrow keys, and lines that say what to do.
 */

import { Clipboard } from '@jupyterlab/apputils';
import * as React from 'react';

/** The present, again each second while something is going on, else each half minute. */
export function useNow(isLive: boolean): number {
  const [now, setNow] = React.useState(() => Date.now());
  React.useEffect(() => {
    setNow(Date.now());
    const timer = window.setInterval(() => setNow(Date.now()), isLive ? 1000 : 30000);
    return () => window.clearInterval(timer);
  }, [isLive]);
  return now;
}

/** Let the arrow keys, Home and End go through the rows of a list. */
export function moveFocus(event: React.KeyboardEvent<HTMLElement>): void {
  const moves: { readonly [key: string]: number } = { ArrowDown: 1, ArrowUp: -1 };
  const isEdge = event.key === 'Home' || event.key === 'End';
  if (!(event.key in moves) && !isEdge) {
    return;
  }
  const rows = [...event.currentTarget.querySelectorAll<HTMLElement>('[data-row]')];
  const at = rows.findIndex(row => row === document.activeElement);
  if (at < 0) {
    return;
  }
  const to = isEdge ? (event.key === 'Home' ? 0 : rows.length - 1) : at + moves[event.key];
  rows[to]?.focus();
  event.preventDefault();
}

export interface ILineProps {
  readonly kind?: 'plain' | 'error';
  readonly children: React.ReactNode;
}

/** One line in place of a list: what it will hold, or what went wrong. */
export function Line({ kind = 'plain', children }: ILineProps): JSX.Element {
  return (
    <div
      className={`jp-mlb-Line${kind === 'error' ? ' jp-mod-error' : ''}`}
      role={kind === 'error' ? 'alert' : undefined}
    >
      {children}
    </div>
  );
}

/** A sentence in which what stands between backticks is code. */
export function Sentence({ text }: { readonly text: string }): JSX.Element {
  return <>{text.split('`').map((part, at) => (at % 2 ? <code key={at}>{part}</code> : part))}</>;
}

export interface IProblemProps {
  readonly sentence: string;
  readonly onRetry?: () => void;
}

/** What happened, what to do, and its details to take along. */
export function Problem({ sentence, onRetry }: IProblemProps): JSX.Element {
  return (
    <Line kind="error">
      <span>
        <Sentence text={sentence} />
      </span>
      <span className="jp-mlb-Line-actions">
        {onRetry && <LinkButton onClick={onRetry}>Try again</LinkButton>}
        <LinkButton onClick={() => Clipboard.copyToSystem(sentence)}>Copy details</LinkButton>
      </span>
    </Line>
  );
}

export interface IFactProps {
  readonly name: string;
  readonly children: React.ReactNode;
}

/** A fact in the head of a page. */
export function Fact({ name, children }: IFactProps): JSX.Element {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

/** A name and its value among others; a long one is cut, and seen whole while it is pointed at. */
export function Pair(props: { readonly name: string; readonly children: string }): JSX.Element {
  return (
    <span className="jp-mlb-RunHead-pair" title={`${props.name} = ${props.children}`}>
      <code>{props.name}</code> {props.children}
    </span>
  );
}

export interface ISegmentsProps<T extends string> {
  readonly label: string;
  /** Each choice with its word. */
  readonly choices: ReadonlyArray<readonly [T, string]>;
  readonly chosen: T;
  readonly onChoose: (choice: T) => void;
}

/** One of few, all of which are seen. */
export function Segments<T extends string>(props: ISegmentsProps<T>): JSX.Element {
  const name = React.useId();
  return (
    <div className="jp-mlb-Segments" role="radiogroup" aria-label={props.label}>
      {props.choices.map(([choice, word]) => (
        <label key={choice} className={choice === props.chosen ? 'jp-mod-on' : ''}>
          <input
            type="radio"
            name={name}
            checked={choice === props.chosen}
            onChange={() => props.onChoose(choice)}
          />
          {word}
        </label>
      ))}
    </div>
  );
}

/** Copies a text, and says for a moment that it did. */
export function Copy(props: { readonly text: string; readonly label: string }): JSX.Element {
  const [isDone, setDone] = React.useState(false);
  React.useEffect(() => {
    if (isDone) {
      const timer = window.setTimeout(() => setDone(false), 2000);
      return () => window.clearTimeout(timer);
    }
  }, [isDone]);
  return (
    <LinkButton
      title={props.text}
      onClick={() => {
        // The browser's own clipboard is there over HTTPS only.
        Clipboard.copyToSystem(props.text);
        setDone(true);
      }}
    >
      {isDone ? 'Copied' : props.label}
    </LinkButton>
  );
}

export interface ILinkButtonProps {
  readonly onClick: () => void;
  readonly children: React.ReactNode;
  readonly title?: string;
  readonly disabled?: boolean;
  /** Whether Enter and the space bar are its own inside a notebook, whose shortcuts they are too. */
  readonly keepsKeys?: boolean;
}

/** An action that is written like a link. */
export function LinkButton(props: ILinkButtonProps): JSX.Element {
  const { onClick, children, title, disabled, keepsKeys } = props;
  return (
    <button
      type="button"
      className="jp-mlb-LinkButton"
      data-lm-suppress-shortcuts={keepsKeys || undefined}
      title={title}
      disabled={disabled}
      onClick={event => {
        event.stopPropagation();
        onClick();
      }}
    >
      {children}
    </button>
  );
}
