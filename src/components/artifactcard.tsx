/**
 * An artifact as a card among others: its name, what it is, how large it is, and what is shown of it.
 */

import type { PartialJSONObject } from '@lumino/coreutils';
import * as React from 'react';

import type { IBinding, IExecution } from '../api/schema';
import type { IContents } from '../model/contents';
import { size } from '../model/format';
import { isCode, summary } from '../model/preview';
import { Download } from './files';
import { Preview } from './preview';
import { Copy, LinkButton } from './shared';

export interface IArtifactLinkProps {
  readonly name: string;
  readonly onOpen: () => void;
}

export function ArtifactLink({ name, onOpen }: IArtifactLinkProps): JSX.Element {
  return (
    <LinkButton
      title={`Open ${name}: what it holds, where it comes from and what was made of it`}
      onClick={onOpen}
    >
      <code>{name}</code>
    </LinkButton>
  );
}

export interface IBindingCardProps {
  readonly binding: IBinding;
  /** The line of Python that loads it, where there is one. */
  readonly python: string | null;
  readonly contents: IContents;
  readonly onOpen: (digest: string, name: string) => void;
  readonly bundle: (data: PartialJSONObject) => JSX.Element;
  /** What leads to the item that logged it, where it stands among those of others. */
  readonly item?: JSX.Element;
}

export function BindingCard(props: IBindingCardProps): JSX.Element {
  const { binding, python, contents, bundle, item, onOpen } = props;
  const { artifact, name } = binding;
  return (
    <div className="jp-mlb-Card" data-name={name}>
      <div className="jp-mlb-Card-head">
        {artifact ? (
          <ArtifactLink name={name} onOpen={() => onOpen(artifact.digest, name)} />
        ) : (
          <code>{name}</code>
        )}
        {item && <span>of {item}</span>}
        {artifact && (
          <span title={artifact.digest}>
            {summary(artifact.type, artifact.preview)} · {size(shownSize(artifact))}
          </span>
        )}
        {binding.module && <span>module {binding.module}</span>}
        {artifact && (
          <span className="jp-mlb-Card-action">
            {artifact.codec === 'file' && (
              <Download digest={artifact.digest} name={name} contents={contents} />
            )}
            {python && <Copy text={python} label="Copy Python" />}
          </span>
        )}
      </div>
      {binding.problem && <div className="jp-mlb-Card-problem">{binding.problem}</div>}
      {artifact && <Preview artifact={artifact} name={name} contents={contents} bundle={bundle} />}
    </div>
  );
}

export interface IBindingCardsProps {
  readonly bindings: ReadonlyArray<IBinding>;
  readonly python: (name: string) => string | null;
  readonly contents: IContents;
  readonly onOpen: (digest: string, name: string) => void;
  readonly bundle: (data: PartialJSONObject) => JSX.Element;
}

/** A card for each artifact; what is but code that was imported stands in one line. */
export function BindingCards(props: IBindingCardsProps): JSX.Element {
  const { bindings, python, onOpen, ...rest } = props;
  const code = bindings.filter(({ artifact }) => artifact && isCode(artifact));
  return (
    <>
      {bindings
        .filter(each => !code.includes(each))
        .map(binding => (
          <BindingCard
            key={binding.name}
            {...rest}
            binding={binding}
            python={python(binding.name)}
            onOpen={onOpen}
          />
        ))}
      {code.length > 0 && (
        <p className="jp-mlb-Card-code">
          classes and functions{' '}
          {code.map(({ name, artifact }) => (
            <React.Fragment key={name}>
              <ArtifactLink
                name={name}
                onOpen={() => artifact && onOpen(artifact.digest, name)}
              />{' '}
            </React.Fragment>
          ))}
        </p>
      )}
    </>
  );
}

/** How large an artifact is: of files and folders what they hold, without what names it. */
export function shownSize({
  size: all,
  preview
}: {
  readonly size: number;
  readonly preview: PartialJSONObject;
}): number {
  const isOfFiles = preview.kind === 'file' || preview.kind === 'folder';
  return isOfFiles && typeof preview.size === 'number' ? preview.size : all;
}

/** The line of Python that loads what a step bound, or logged; of an item there is no shorter way than by its list. */
export function pythonOf(
  { run, step, part_of }: Pick<IExecution, 'run' | 'step' | 'part_of'>,
  name: string,
  isLogged = false
): string | null {
  return part_of === null ? pythonCode(run, step, name, isLogged) : null;
}

/** The line of Python that loads what a run has: what a step bound to a name, or what was logged. */
export function pythonCode(
  run: string,
  step: string | null,
  name: string,
  isLogged = false
): string {
  const of = step === null ? '' : `[${JSON.stringify(step)}]`;
  const at = `[${JSON.stringify(name)}]`;
  return `mlbench.run("${run.slice(0, 8)}")${of}${isLogged ? '.artifacts' : ''}${at}`;
}
